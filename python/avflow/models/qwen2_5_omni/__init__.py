"""Qwen2.5-Omni (Thinker)."""

from ...moved import old_names

__getattr__ = old_names(__name__)
