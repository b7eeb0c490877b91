"""What a figure is given: the table that it draws, and its heading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from .. import checks
from ..errors import InputError
from ..results.table import as_sweep, as_table

LONGEST_TITLE = 80  # characters; a figure is as wide as its title


def table_with(given: Any, columns: Sequence[str], made_by: str) -> pa.Table:
    """The table of `given` (Results, or a pyarrow.Table).

    Raises:
        InputError: neither of the two, or it lacks one of `columns`; `made_by` says which experiment's table has them.
    """
    if not isinstance(given, pa.Table) and not isinstance(getattr(given, "table", None), pa.Table):
        raise InputError(f"this figure draws the Results of {made_by}, or their table; got {checks.shown(given)}")
    table = as_sweep(as_table(given)) if "knockout" in columns else as_table(given)
    if missing := [name for name in columns if name not in table.column_names]:
        there = ", ".join(table.column_names)
        raise InputError(f"this figure draws the table of {made_by}: the one given lacks {missing}, it has {there}")
    return table


def rows_of(table: pa.Table, token: int | None) -> pa.Table:
    """The rows of one of the tokens that look (0: the prompt's last), of a table of attention shares; None: all.

    Raises:
        InputError: there are none.
    """
    if token is not None:
        token = checks.integer("token", token, mend="give the number of an answer's token, 0 for the prompt's last")
        table = table.filter(pc.equal(table["answer_token"], token))
    if not table.num_rows:
        raise InputError(f"nothing to draw: the table has no rows{'' if token is None else f' of token {token}'}")
    return table


def check_axes(ax: Any) -> None:
    """Raises InputError for what is no matplotlib Axes; None is none, and a figure of its own is drawn then."""
    if ax is not None and not isinstance(ax, Axes):
        raise InputError(f"ax is {checks.shown(ax)}: pass a matplotlib Axes, or leave it out")


def heading(title: str | None, default: str, samples: int) -> str:
    """A figure's title with the number of samples, cut to LONGEST_TITLE characters."""
    if title is not None and not isinstance(title, str):
        raise InputError(f"title is {checks.shown(title)}: give text")
    title = title or default
    if len(title) > LONGEST_TITLE:
        title = title[: LONGEST_TITLE - 3] + "..."
    return f"{title} ({samples} sample{'s' if samples != 1 else ''})"
