"""Samples into a run folder, with resume, workers and merge."""

from ..moved import old_names

__getattr__ = old_names(__name__)
