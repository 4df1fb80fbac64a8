"""Storms against a whole service: real gunicorn, real signals, a real server that counts every refusal."""
