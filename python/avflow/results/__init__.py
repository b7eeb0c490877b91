"""Tables of results: their columns, their files, means over samples; `Results` and `read`."""

from ..moved import old_names
from .results import Results, read
from .schemas import register
from .table import bootstrap, mean_change, one_width, paths_of, select, widths_of

__all__ = ["Results", "bootstrap", "mean_change", "one_width", "paths_of", "read", "register", "select", "widths_of"]

__getattr__ = old_names(__name__)
