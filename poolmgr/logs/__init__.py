"""Log lines: how they look, what they must not hold, and which thread writes them.

- ``structured``: how they look; ``redaction``: what they must not hold
- ``flood``: a storm of one event is counted; ``journal``: a thread that holds nothing writes ours
"""
