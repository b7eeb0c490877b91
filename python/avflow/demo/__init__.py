"""`avflow demo`: a trained model of the package, and questions that it has not seen."""

from ..moved import old_names

__getattr__ = old_names(__name__)
