"""Benchmarks that a sceptic can rerun: ``make bench``. See :mod:`bench.__main__`."""
