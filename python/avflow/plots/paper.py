"""A figure as a paper wants it: of its width and height, its size of letters, its font."""

from __future__ import annotations

import itertools
import math
import pickle
import textwrap
import warnings

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import BboxBase

from .. import checks
from ..errors import InputError

WIDTHS = {"column": 3.3, "page": 6.8}  # inches: of one column of two, of both
FONT_SIZE = 9.0  # points that the figures are drawn with
LEAST_LINE = 8  # letters of a broken title or name
NARROW = 4.6  # inches; in less a legend beside the axes leaves them no room


def on_paper(
    figure: Figure,
    width: str | float | None = None,
    height: float | None = None,
    font_size: float | None = None,
    font: str | None = None,
) -> Figure:
    """A copy of a figure with other measures, as of `save`; the figure itself stays as it is."""
    wide = _inches("width", WIDTHS.get(width, width) if isinstance(width, str) else width)
    high = _inches("height", height)
    points = (
        FONT_SIZE
        if font_size is None
        else checks.number("font_size", font_size, 3, high=40, mend="give points, 3 to 40")
    )
    made = copied(figure)
    _letters(made, points / FONT_SIZE, None if font is None else _known_font(font))
    before_wide, before_high = made.get_size_inches()
    wide = before_wide if wide is None else wide
    kept = before_high * min(1.0, max(wide / before_wide, 0.75))
    made.set_size_inches(wide, high or kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # _check_room says it by name
        made.draw_without_rendering()  # legends and letters have a size only when they are drawn
        below = _legends_below(made) if wide < NARROW else 0.0
        made.set_size_inches(wide, high or kept + below)
        whole = {text: text.get_text() for text in _written(made)}
        while _break_lines(made, whole):  # a name of more lines moves the panels, and with them their titles
            made.draw_without_rendering()
        _thin_ticks(made)
        made.draw_without_rendering()
    _check_room(made)
    return made


def _inches(name: str, value: str | float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise InputError(f"{name} is {checks.shown(value)}: give inches, or one of {', '.join(WIDTHS)}")
    return checks.number(name, value, 1, high=40, mend="give inches, 1 to 40")


def _known_font(font: str) -> str:
    """Raises InputError for a font that this machine lacks: matplotlib would take another and only log it."""
    try:
        findfont(checks.text("font", font), fallback_to_default=False)
    except ValueError as error:
        raise InputError(f"font {font!r} is not on this machine: install it, or take serif or sans-serif") from error
    return font


def copied(figure: Figure) -> Figure:
    """A copy to draw: each time that a figure is drawn, its layout moves on from where it was, by some pixels.

    Raises:
        InputError: what is in it cannot be copied, such as a formatter that is a lambda.
    """
    manager, figure.canvas.manager = figure.canvas.manager, None  # or pyplot would show the copy as a figure of its own
    try:
        made: Figure = pickle.loads(pickle.dumps(figure))
    except Exception as error:  # an artist of a user's raises what it likes
        raise InputError(f"the figure cannot be copied to its new measures: {error}") from error
    finally:
        figure.canvas.manager = manager
    FigureCanvasAgg(made)
    return made


def untouched(figure: Figure) -> Figure:
    """`copied`, or the figure itself where that cannot be: drawn twice it may then differ by some pixels."""
    try:
        return copied(figure)
    except InputError:
        return figure


def _letters(figure: Figure, factor: float, font: str | None) -> None:
    for text in figure.findobj(Text):
        text.set_fontsize(text.get_fontsize() * factor)
        if font is not None:
            text.set_fontfamily(font)
    for ax in figure.axes:  # of ticks that come with another width
        for axis in (ax.xaxis, ax.yaxis):
            sizes = [label.get_fontsize() for label in axis.get_ticklabels()]
            axis.set_tick_params(labelsize=sizes[0] if sizes else FONT_SIZE * factor, labelfontfamily=font)


def _legends_below(figure: Figure) -> float:
    """Legends that stand right of their axes go below the figure; the height that they take, in inches."""
    taken = 0.0
    for ax in figure.axes:
        legend = ax.get_legend()
        if legend is None or not _beside(ax, legend):
            continue
        title, size = legend.get_title().get_text(), legend.get_texts()[0].get_fontsize()
        own = legend.get_texts()[0].get_fontfamily()
        handles, labels = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
        legend.remove()
        for columns in (2, 1):
            below = figure.legend(
                handles, labels, loc="outside lower left", ncols=columns, frameon=False, title=title or None,
                prop={"size": size, "family": own}, title_fontproperties={"size": size, "family": own},
                handlelength=2.2,
            )  # fmt: skip
            figure.draw_without_rendering()
            if columns == 1 or below.get_window_extent().x1 <= figure.bbox.x1:
                break
            below.remove()
        taken += below.get_window_extent().height / figure.dpi
    return taken


def _beside(ax: Axes, legend: Legend) -> bool:
    return bool(legend.get_window_extent().x0 >= ax.get_window_extent().x1 - 1)


def _break_lines(figure: Figure, whole: dict[Text, str]) -> bool:
    """Titles and names that reach out of the figure get more lines, as many as it takes; whether there were any."""
    figure.draw_without_rendering()
    broken = False
    for text in whole:
        each = max(map(len, text.get_text().split("\n")))
        while each > LEAST_LINE and _outside(figure, text.get_window_extent()):
            each -= max(1, each // 10)
            text.set_text(textwrap.fill(whole[text], max(LEAST_LINE, each)))
            figure.draw_without_rendering()
            broken = True
    return broken


def _written(figure: Figure) -> list[Text]:
    """Titles, names of axes, what is written into panels or on the figure; numbers of axes keep to their axes."""
    out = [*figure.texts, *(text for text in (figure._suptitle,) if text is not None)]
    for ax in figure.axes:
        titles = [ax.title, ax._left_title, ax._right_title]
        out += [*titles, ax.xaxis.label, ax.yaxis.label, *(text for text in ax.texts if not text.get_clip_on())]
    return [text for text in out if text.get_visible() and text.get_text().strip()]


def _outside(figure: Figure, box: BboxBase) -> bool:
    room = figure.bbox
    return bool(box.x0 < room.x0 - 1 or box.y0 < room.y0 - 1 or box.x1 > room.x1 + 1 or box.y1 > room.y1 + 1)


def _thin_ticks(figure: Figure) -> None:
    """Of numbers that were put at places of their own, as many stay as have room."""
    for ax in figure.axes:
        labels = [label for label in ax.get_xticklabels() if label.get_text()]
        if not isinstance(ax.xaxis.get_major_locator(), FixedLocator) or len(labels) < 2:
            continue
        wide = max(label.get_window_extent().width for label in labels) + 3
        step = (labels[-1].get_window_extent().x0 - labels[0].get_window_extent().x0) / (len(labels) - 1)
        every = max(1, math.ceil(wide / max(step, 1)))
        ax.set_xticks(ax.get_xticks()[::every], [label.get_text() for label in labels[::every]])


def _check_room(figure: Figure) -> None:
    """Raises InputError where panels or names lie on each other, or reach out of the figure."""
    panels = [_boxes(ax) for ax in figure.axes if ax.get_visible()]
    names = [text for text in figure.findobj(Annotation) if text.get_visible() and not text.get_rotation()]
    letters = [[Text.get_window_extent(text)] for text in names]  # the arrow of a name is no part of its letters
    thin = any(min(ax.bbox.width, ax.bbox.height) < 20 for ax in figure.axes if ax.get_visible() and not _is_bar(ax))
    pairs = (pair for boxes in (panels, letters) for pair in itertools.combinations(boxes, 2))
    whole = [Text.get_window_extent(text) for text in _written(figure)]
    whole += [legend.get_window_extent() for legend in figure.legends]
    whole += [legend.get_window_extent() for ax in figure.axes if (legend := ax.get_legend()) is not None]
    cut = any(_outside(figure, box) for box in whole)
    if thin or cut or any(_overlap(a, b) for own, other in pairs for a in own for b in other):
        wide, high = figure.get_size_inches()
        raise InputError(
            f"the figure has no room in {wide:.3g} x {high:.3g} inches: give a larger width= or height=, or a smaller "
            "font_size="
        )


def _boxes(ax: Axes) -> list[BboxBase]:
    """Of the axes, its numbers and names; not of a title, which may stand above its neighbours."""
    return [ax.bbox, *(box for axis in (ax.xaxis, ax.yaxis) if (box := axis.get_tightbbox()) is not None)]


def _is_bar(ax: Axes) -> bool:
    return ax.get_label() == "<colorbar>"


def _overlap(a: BboxBase, b: BboxBase) -> bool:
    common = BboxBase.intersection(a, b)
    return common is not None and min(common.width, common.height) > 1
