"""The worker service: Redis over HTTP, for callers that cannot keep a connection of their own.

A WSGI application (:mod:`worker.app`) that gunicorn runs in each worker process. It takes connections
from this process's pool and uses only the library's public names. ``docs/http.md`` describes the protocol.
"""
