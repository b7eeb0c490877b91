"""The walk: packed rows of many runs through the model's own decoder layers, once."""
