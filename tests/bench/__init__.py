"""Benchmarks that a sceptic can rerun: ``make bench``. See :mod:`tests.bench.__main__`."""
