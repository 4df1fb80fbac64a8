"""The worker service: Redis over HTTP, for callers that cannot keep a connection of their own.

A WSGI application (:mod:`worker.app`) that gunicorn runs in each worker process. It takes connections
from this process's pool and uses nothing of the library but its public names. The protocol is told in
``docs/http.md``.
"""
