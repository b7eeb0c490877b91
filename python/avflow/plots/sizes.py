"""A figure at a journal's column width: as wide on paper as was asked, with letters of the size that was asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..errors import InputError

BASE = 9.0  # points of ordinary text in our figures; headings and ticks are in proportion
_PASSES = 6  # the margin that is cropped depends on the layout, and this on the width: settled to 1 % after two to four


@contextmanager
def sized(figure: Figure, width: float | None, font: float | None) -> Iterator[None]:
    """Within it the figure, saved with a tight box, is `width` inches wide, and its text `font` points; then as before.

    The height stays: panels are narrower, and legends below them keep their room. None: as it was drawn.

    Raises:
        InputError: its panels and letters do not fit into that width.
    """
    size = figure.get_size_inches().copy()
    # Another width may have other ticks, so their letters are set for the axis and not one by one.
    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    ticks = [(axis, labels[0].get_fontsize()) for axis in axes if (labels := axis.get_ticklabels())]
    of_ticks = {id(label) for axis in axes for label in axis.get_ticklabels(which="both")}
    texts = [(text, text.get_fontsize()) for text in figure.findobj(Text) if id(text) not in of_ticks]
    try:
        if font is not None:
            for text, points in texts:
                text.set_fontsize(points * font / BASE)
            for axis, points in ticks:
                axis.set_tick_params(which="both", labelsize=points * font / BASE)
        if width is not None:
            figure.set_size_inches(width, size[1])
            for _ in range(_PASSES):
                wide, high = figure.get_size_inches()
                figure.set_size_inches(wide * width / _saved_width(figure, width), high)
        yield
    finally:
        for text, points in texts:
            text.set_fontsize(points)
        for axis, points in ticks:
            axis.set_tick_params(which="both", labelsize=points)
        figure.set_size_inches(*size)


def _saved_width(figure: Figure, width: float) -> float:
    """Inches, of what a tight box leaves of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied")
        try:
            figure.draw_without_rendering()
        except UserWarning:
            raise InputError(
                f"width is {width:g}: {len(figure.axes)} panels with these letters do not fit into so many inches; "
                "pass a larger width, a smaller font, or draw fewer paths"
            ) from None
    return float(figure.get_tightbbox().width) + 2 * float(mpl.rcParams["savefig.pad_inches"])
