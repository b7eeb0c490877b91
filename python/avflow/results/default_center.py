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
    p, prompts = _clean(table)
    return len(pc.unique(prompts.filter(pc.less(p, min(SMALL, (pc.max(p).as_py() or 0.0) / APART)))))


def highest_p(table: Any) -> float:
    """The largest clean probability of a sample with a value; 0 where there is none."""
    return float(pc.max(_clean(table)[0]).as_py() or 0.0)


def _clean(table: Any) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """p_clean and prompt of every row with a value."""
    table = as_sweep(as_table(table))
    table = table.filter(pc.is_valid(table["change_percent"]))
    return table["p_clean"], table["prompt"]


def default_center(*tables: pa.Table) -> Center:
    """ "mean", of the percentages, unless a sample of any table is faint: then "difference", in points of probability.

    Where no sample reaches SMALL, points would say of every path that it changes nothing: no fall is larger than what
    there was. Samples that are faint alike keep "mean"; unlike ones get "log_ratio", in which all count alike, or
    "ratio_of_means" where a cut leaves an answer no probability at all, which has no logarithm.
    """
    if not any(faint_samples(table) for table in tables):
        return "mean"
    if max(map(highest_p, tables)) >= SMALL:
        return "difference"
    lost = any(pc.any(pc.is_inf(as_sweep(as_table(table))["logp_knockout"])).as_py() for table in tables)
    return "ratio_of_means" if lost else "log_ratio"


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
