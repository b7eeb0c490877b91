"""Model families, and `load` and `wrap`: the two ways to a model."""

from .base import Family, Model
from .loading import load, wrap
from .registry import families, family_of, register

__all__ = ["Family", "Model", "families", "family_of", "load", "register", "wrap"]
