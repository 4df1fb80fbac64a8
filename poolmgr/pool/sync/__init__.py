"""The pool for threads and greenlets: a drop-in for redis-py's."""
