"""The supervisor seen from outside.

- ``queries``: answers to tools' questions
- ``audit``: ledger, kernel and server compared
- ``metrics``: the numbers for Prometheus; ``exposition``: serves them over HTTP
"""
