"""`avflow demo`: a trained model of avflow-models, and questions that it has not seen."""

from ..moved import old_names

__getattr__ = old_names(__name__)
