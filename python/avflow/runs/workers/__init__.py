"""Samples handed to worker processes or Ray actors, and what they bring back."""
