"""Samples into a run folder, with resume, workers and merge."""
