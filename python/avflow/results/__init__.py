"""Tables of results: their columns, their files, means over samples; `Results` and `read`."""

from .results import Results, read
from .table import bootstrap, mean_change, select

__all__ = ["Results", "bootstrap", "mean_change", "read", "select"]
