"""report.html: one page, complete in itself, of one or several run folders.

collect.py reads the folders into one dict of JSON values; words.py tells in sentences what it shows; html.py fills
templates/ with both, page.css and the scripts of js/, which draw every chart from that dict and nothing else.
comparison.py lays several sweeps side by side, on a page of the same skeleton and style.
"""

from ..moved import old_names
from .comparison import compare
from .write import report, report_together

__all__ = ["compare", "report", "report_together"]

__getattr__ = old_names(__name__)
