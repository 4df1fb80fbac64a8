"""What nobody sends, writes or sets who means well: drawn by coverage for ``make fuzz``, by Hypothesis for the suite.

Each of the files ``decoder``, ``stage`` (the supervisor), ``snapshot``, ``client_list`` and ``settings`` is one target:
:func:`play` takes bytes and raises what it finds wrong. ``corpus/TARGET/`` holds bytes to begin with, and those that
have found a fault; ``tests/unit/test_fuzz_corpus.py`` plays all of them. ``faults`` plants faults of each kind, which
the corpus has to find. No target needs atheris: only ``python -m tests.fuzz`` does, which draws.
"""
