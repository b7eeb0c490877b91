"""Which jobs and walks follow on given prompts from what is asked for, and what a sweep is asked for. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from avflow_ext import table_of

from .. import checks
from ..checks import MOST_LAYERS, choice, integer, members, shown
from ..errors import InputError
from ..knockouts.knockout import SEMANTICS, Knockout, Semantics
from ..knockouts.presets import as_knockouts
from ..knockouts.sides import parts_of
from ..knockouts.windows import WindowStyle, layer_list, window
from ..models.base import Model, check_model
from ..models.compat import check_layers
from ..prompts.correct import CORRECT_BY
from ..prompts.prompt import Prompt
from ..prompts.relabel import warn_of_left
from ..walk.jobs import Columns, Eviction, Job, first_cut_row
from ..walk.jobs import members as members_of
from ..walk.memory import parse_bytes
from ..walk.packing import Walks
from .cheaper import MOST_SPREAD, in_media, is_checked, last_media_layer, media_word, turn_of

SELECT = ("correct", "wrong", "all")
TARGETS = ("key", "own")
MOST_CELLS = 100_000


class Window(NamedTuple):
    """Where a knockout is in force: around or from layer `centre` on, in `layers`; `width` as it was asked for."""

    centre: int
    layers: frozenset[int]
    width: int


@dataclass
class SweepRequest:
    """What to cut and where to look.

    Args:
        knockouts: a preset's name, a text form, a Knockout, or several.
        window: width of the window in layers, or several widths. style: "center", "inverse", "top_down" or "bottom_up"
            (the last two take no notice of the width).
        layers: the windows' centres; None for all layers.
        select: prompts to sweep: those the clean model answers "correct"ly, "wrong"ly, or "all".
        semantics: "renormalize" (score -inf before the softmax) or "zero" (weight zeroed after it).
        memory: budget for the packed rows, "8GB" or bytes; None: from what is free.
        cells: instead of every knockout at every layer, these alone: [("video->question", 10), ("audio->last", 3)],
            knockouts and centres; each in every width. Leave `knockouts` and `layers` out.
        correct_by: what counts as a correct answer, and is selected by: "options", the answer's letter leads the
            options' letters (without options: all its tokens lead); "vocabulary", the studies' rule: the model's most
            probable token is the answer, whatever its case.
        target: whose probability is measured: "key", the right answer's; "own", as the studies' percentages, that of
            the token which the clean model itself says first (of an open-ended answer, too, one token). The key's
            columns are kept beside it.
        media_until: an estimate for paths that change the media's rows (98 % of a preset's price): above this layer a
            knocked-out stream has no media, and is compared with the clean run without them. A layer, or a schedule's
            file of `avflow plan`, in which media leave there. None: exact.
        media_check: of these, so large a random share of cells (0 to 1) is run exactly too; the differences are told.
        spread: of the cells of such paths every sample runs every so-many-th; the others are missing values.

    Raises:
        InputError: a value out of range; the message names it.
    """

    knockouts: Any = "av_video"
    window: int | Sequence[int] = 7
    style: WindowStyle = "center"
    layers: Any = None
    select: str = "correct"
    semantics: Semantics = "renormalize"
    memory: int | str | None = None
    cells: Any = None
    correct_by: str = "options"
    target: str = "key"
    media_until: Any = None
    media_check: float = 0.02
    spread: int = 1

    def __post_init__(self) -> None:
        if self.cells is not None:
            self._take_cells()
        self.knockouts: list[Knockout] = as_knockouts(self.knockouts)
        widths = [self.window] if isinstance(self.window, int) else members(self.window, MOST_LAYERS)
        if not widths:
            raise InputError(f"window = {shown(self.window)}: pass a width in layers, or several")
        self.widths: list[int] = widths
        if not isinstance(self.window, int):
            self.window = widths
        for width in self.widths:
            window(0, width, self.style, 1)  # checks both
        if len(set(self.widths)) < len(self.widths):
            raise InputError(f"window = {shown(self.window)}: a width is given twice")
        choice("select", self.select, SELECT)
        choice("correct_by", self.correct_by, CORRECT_BY)
        choice("target", self.target, TARGETS)
        choice("semantics", self.semantics, SEMANTICS)
        if self.memory is not None:
            self.memory = parse_bytes(self.memory)
        self.media_until = last_media_layer(self.media_until)
        mend = "give a share of the cells, 0 to 1"
        self.media_check = checks.number("media_check =", self.media_check, high=1.0, mend=mend)
        mend = "every sample runs every so-many-th cell: give 1 for all of them, or more"
        self.spread = checks.integer("spread =", self.spread, low=1, high=MOST_SPREAD, mend=mend)

    def _take_cells(self) -> None:
        """`cells` as [(Knockout, centre)], and `knockouts` as those that they name."""
        given = members(self.cells, MOST_CELLS)
        if not given or len(given) > MOST_CELLS:
            raise InputError(
                f"cells = {shown(self.cells)}: pass 1 .. {MOST_CELLS} pairs (knockout, centre of the window)"
            )
        cells: list[tuple[Knockout, int]] = []
        for cell in given:
            pair = members(cell, 2)
            if pair is None or len(pair) != 2:
                raise InputError(f'cells holds {shown(cell)}: pass pairs such as ("video->question", 10)')
            named = as_knockouts(pair[0])
            if len(named) != 1:
                raise InputError(
                    f"cells holds {shown(cell)}: {shown(pair[0])} is a preset; name one knockout in each cell"
                )
            cells.append((named[0], integer("cells: the centre", pair[1], high=MOST_LAYERS)))
        if len({(k.name, c) for k, c in cells}) < len(cells):
            raise InputError(f"cells = {shown(self.cells)}: a cell is given twice")
        alone = {k.name: k for k, _ in cells}
        unlike = [k.name for k, _ in cells if k != alone[k.name]]
        if unlike:
            raise InputError(f"cells hold two knockouts that are called {unlike[0]!r}: give each its own name")
        default = isinstance(self.knockouts, str) and self.knockouts == SweepRequest.knockouts
        if not default and [k.name for k in as_knockouts(self.knockouts)] != list(alone):
            raise InputError("knockouts and cells are both given: cells name their knockouts themselves")
        if self.layers is not None:
            raise InputError("layers and cells are both given: cells name their layers themselves")
        self.cells, self.knockouts = cells, list(alone.values())

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)

    def plan(self, model: Model, prompts: Sequence[Prompt]) -> Plan:
        return Plan(model, prompts, self)

    def meta(self, model: Model) -> dict[str, Any]:
        """What was asked for, as JSON can hold it, for the result's `meta`."""
        return {
            "knockouts": [k.name for k in self.knockouts],
            "window": self.window,
            "style": self.style,
            "layers": layer_list(self._layers, model.n_layers),
            "semantics": self.semantics,
            **self.unusual(),
        }

    def unusual(self) -> dict[str, Any]:
        """What is not always asked for, where it is, as JSON can hold it."""
        found: dict[str, Any] = {}
        if self.cells is not None:
            found["cells"] = [[knockout.name, centre] for knockout, centre in self.cells]
        if self.correct_by != "options":
            found["correct_by"] = self.correct_by
        if self.target != "key":
            found["target"] = self.target
        if self.media_until is not None:
            found |= {"media_until": self.media_until, "media_check": self.media_check}
        if self.spread > 1:
            found["spread"] = self.spread
        return found

    def windows(self, model: Model) -> list[Window]:
        """Every window, after a check against the model.

        Raises:
            InputError: layers, heads or groups that the model does not have.
            UnsupportedModelError: a decoder that is not plain causal attention.
        """
        check_model(model)
        check_layers(model.text_model)
        for knockout in self.knockouts:
            knockout.check_heads(model.n_heads)
        parts_of(model.groups, self.knockouts)
        if self.media_until is not None and self.media_until > model.n_layers - 2:
            raise InputError(
                f"media_until = {self.media_until}: the model has layers 0 .. {model.n_layers - 1}, so media can be "
                f"gone after layer {model.n_layers - 2} at the latest; leave it out to have them in all"
            )
        centres = layer_list(self._layers, model.n_layers)
        return [Window(c, window(c, w, self.style, model.n_layers), w) for w in self.widths for c in centres]

    def warn_of_left(self, model: Model, prompt: Prompt) -> None:
        """An AvflowWarning where a knockout names `video` and some of its tokens have left it for a user's group."""
        sides = [side for knockout in self.knockouts for side in knockout.groups]
        warn_of_left(prompt, sides, model.groups, model.warned)

    @property
    def _layers(self) -> Any:
        """The windows' centres, as `layer_list` takes them."""
        return self.layers if self.cells is None else [centre for _, centre in self.cells]

    def pairs(self, model: Model) -> list[tuple[int, Window]]:
        """What is measured: number of the knockout, and its window; by knockout. Raises as `windows`."""
        windows = self.windows(model)
        asked = None if self.cells is None else {(knockout.name, centre) for knockout, centre in self.cells}
        return [
            (number, one)
            for number, knockout in enumerate(self.knockouts)
            for one in windows
            if asked is None or (knockout.name, one.centre) in asked
        ]


class Plan(Walks):
    """The knockouts of a sweep, and why some have no job."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        request: SweepRequest,
        columns: Sequence[Columns] | None = None,
    ) -> None:
        self.request = request
        self.cells = request.pairs(model)
        # Per prompt and knockout: "ok" or why there is no value, and the first row that loses an edge (None: no row).
        self.status: list[list[str]] = []
        self.starts: list[list[int | None]] = []
        self.asked: list[list[tuple[int, Window]]] = []  # per prompt, the cells that it runs
        self.media: list[int] = []  # per prompt, the word of the media's groups
        self.sheds: list[list[bool]] = []  # per prompt and knockout: whether it changes rows of the media
        super().__init__(model, prompts, request.knockouts, request.semantics, request.memory_bytes, columns)

    def _make_jobs(self) -> Iterator[Job | Eviction]:
        for prompt, columns in enumerate(self.columns):
            self.request.warn_of_left(self.model, self.prompts[prompt])
            starts = [first_cut_row(k.cuts(self.parts), columns) for k in self.knockouts]
            present = np.bincount(columns.group, minlength=64).astype(bool)
            pairs = zip(self.knockouts, starts, strict=True)
            self.starts.append(starts)
            self.status.append(["ok" if start is not None else self._why_none(present, k) for k, start in pairs])
            self.media.append(media_word(self.parts, self.prompts[prompt]))
            media = members_of(self.media[-1], columns.group)
            self.sheds.append([in_media(start, media) for start in starts])
            self.asked.append(self._cells_of(prompt))
            jobs = [self.job(prompt, k, one.layers) for k, one in self.asked[-1]]
            jobs += [self.job(prompt, k, one.layers, exact=True) for k, one in self.checked(prompt)]
            for job in jobs:
                if job is not None:
                    yield job
                    if (beside := self.beside(job)) is not None:
                        yield beside

    def _cells_of(self, prompt: int) -> list[tuple[int, Window]]:
        """All cells, of in-media knockouts every `spread`-th: which, goes on by one from knockout to knockout."""
        spread = self.request.spread
        if spread == 1:
            return self.cells
        turn, seen = turn_of(self.prompts[prompt].id, spread), dict[int, int]()
        out = []
        for k, one in self.cells:
            if self.sheds[prompt][k]:
                seen[k] = seen.get(k, -1) + 1
                if (seen[k] + k) % spread != turn:
                    continue
            out.append((k, one))
        return out

    def checked(self, prompt: int) -> list[tuple[int, Window]]:
        """The cells that are estimates and are run exactly too."""
        asked, name = self.request, self.prompts[prompt].id
        if asked.media_until is None:
            return []
        return [
            (k, one)
            for k, one in self.asked[prompt]
            if self.sheds[prompt][k]
            and one.layers
            and is_checked(name, asked.knockouts[k].name, one.centre, one.width, asked.media_check)
        ]

    def _why_none(self, present: np.ndarray, knockout: Knockout) -> str:
        """Why a knockout cuts nothing, given which groups have a token (bool [64])."""
        missing: list[str] = []
        for pair in knockout.edges:
            gone = [name for name in pair if not (present & table_of(self.parts.expand(name))).any()]
            if not gone:
                return "no edge to cut"
            missing += gone
        return f"no token: {', '.join(dict.fromkeys(missing))}"

    def beside(self, job: Job) -> Eviction | None:
        """What an estimate is compared with: the clean run whose media leave where the job's do; None: of an exact job.

        The difference of the two is free of what leaving alone does.
        """
        if job.shed is None:
            return None
        first = (job.layers & -job.layers).bit_length() - 1  # of its window
        return Eviction.of(job.prompt, {max(job.shed[0], first - 1): job.shed[1]})

    def job(self, prompt: int, knockout: int, layers: frozenset[int], exact: bool = False) -> Job | None:
        """None where nothing is cut. exact: with media in all layers, whatever `media_until` says."""
        start, until = self.starts[prompt][knockout], self.request.media_until
        shed = None
        if until is not None and self.sheds[prompt][knockout] and not exact:
            shed = until, self.media[prompt]
        return None if start is None or not layers else Job.of(prompt, knockout, start, layers, shed)
