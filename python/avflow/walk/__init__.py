"""The walk: packed rows of many runs through the model's own decoder layers, once."""

from ..moved import old_names

__getattr__ = old_names(__name__)
