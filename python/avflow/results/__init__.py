"""Tables of results: their columns, their files, averages over samples, what is sure of them; `Results`, `read`."""

from ..moved import old_names
from .change import average_change, bootstrap, difference, mean_change, path, significance
from .refine import cells_to_refine
from .results import Results, read
from .schemas import register
from .table import one_width, paths_of, select, widths_of
from .tasks import between_tasks

__all__ = [
    "Results",
    "average_change",
    "between_tasks",
    "bootstrap",
    "cells_to_refine",
    "difference",
    "mean_change",
    "one_width",
    "path",
    "paths_of",
    "read",
    "register",
    "select",
    "significance",
    "widths_of",
]

__getattr__ = old_names(__name__)
