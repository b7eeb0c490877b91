"""report.html: one page, complete in itself, of one or several run folders.

collect.py reads the folders into one dict of JSON values; words.py tells in sentences what it shows; html.py puts both
into a page with page.css and the scripts of js/, which draw every chart from that dict and nothing else.
"""

from ..moved import old_names
from .write import report_together

__all__ = ["report_together"]

__getattr__ = old_names(__name__)
