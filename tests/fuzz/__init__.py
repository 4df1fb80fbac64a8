"""Frames that nobody sends who means well: drawn by Hypothesis for the suite, by coverage for ``make fuzz``."""
