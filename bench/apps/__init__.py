"""The application that is served while it is measured, and the peer's configuration of gunicorn."""
