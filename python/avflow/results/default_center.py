"""Which average a figure and a page show where none is asked for: percent, or points where percent say nothing."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from .. import checks
from .change import CENTERS, Center, Interval
from .table import as_sweep, as_table

SMALL = 0.01  # clean probability below which a change in percent has no upper bound worth the name
APART = 10  # times as probable as a faint sample is another: where all are alike, percent compare them well


def faint_samples(table: Any) -> int:
    """How many samples with a value have a clean probability below SMALL, and far below that of another.

    To such a one a cut may do +1,000,000 %, and a mean of percentages shows nothing but it.
    """
    table = as_sweep(as_table(table))
    table = table.filter(pc.is_valid(table["change_percent"]))
    most = pc.max(table["p_clean"]).as_py() or 0.0
    return len(pc.unique(table.filter(pc.less(table["p_clean"], min(SMALL, most / APART)))["prompt"]))


def default_center(*tables: pa.Table) -> Center:
    """ "mean", of the percentages; "difference", in points of probability, where a sample of any table is faint.

    What a path does is not looked at: the choice depends on the clean runs alone.
    """
    return "difference" if any(faint_samples(table) for table in tables) else "mean"


def default_interval(center: Center) -> Interval:
    """Points are rare and large, or none: BCa's are the narrower there, and hold as often (docs/statistics.md)."""
    return "bca" if center == "difference" else "bootstrap-t"


def unit_of(center: Center) -> str:
    """ "points" or "%"."""
    return "points" if center == "difference" else "%"


def checked_center(center: Any) -> Center | None:
    """`center` as it is. Raises InputError for an average that has no p, or that there is not."""
    known = [one for one in CENTERS if one != "median"]
    return None if center is None else cast(Center, checks.choice("center", center, known))
