"""Writes the measured tables into README.md and docs/."""
