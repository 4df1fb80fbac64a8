"""The questions, a module each: ``TITLE``, ``SECONDS`` (about how long it takes), ``run(context)``."""
