"""The command `avflow`: main, its options, and the commands that are a program of their own (bench, doctor)."""

from ..moved import old_names

__getattr__ = old_names(__name__)
