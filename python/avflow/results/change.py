"""What a sweep's rows say on average: the change per path and layer, with intervals, and which of them are sure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import checks
from ..deprecated import renamed_keyword
from ..errors import InputError
from ..statistics import intervals, many
from ..statistics.ratios import Ratios
from .table import as_sweep, as_table, column, one_width, paths_of, select

_selected = select  # for functions with an argument of that name

Center = Literal["mean", "median", "ratio_of_means", "log_ratio", "difference"]
CENTERS: tuple[Center, ...] = get_args(Center)
AXES: dict[str, str] = {  # what a figure's axis says
    "mean": "Change in answer probability (%)",
    "median": "Median change in answer probability (%)",
    "ratio_of_means": "Change in mean answer probability (%)",
    "log_ratio": "Change in geometric mean probability (%)",
    "difference": "Change in answer probability (points)",
}


def target_of(table: pa.Table) -> str:
    """Whose probability a sweep's table has: "key", or "own", the clean model's own answer.

    Raises:
        InputError: rows of both.
    """
    there = set() if "target" not in table.column_names else set(pc.unique(table["target"]).to_pylist())
    if "own" in there and len(there) > 1:
        raise InputError("rows of target='own' and of target='key' in one table: their changes have no average")
    return "own" if "own" in there else "key"


def axis_of(table: pa.Table, center: Center) -> str:
    """What a figure's axis says of an average of this table."""
    text = AXES[center]
    return text if target_of(table) == "key" else f"{text}, own answer"


Interval = Literal["bootstrap-t", "bca", "percentile", "simultaneous"]
INTERVALS: tuple[Interval, ...] = get_args(Interval)
Clusters = Mapping[str, Hashable] | Callable[[str], Hashable]


@dataclass
class Cells:
    """What every sample says of every path and layer of a table.

    Attributes:
        prompts: ids. cells: (knockout, layer) of the columns, by knockout in order of appearance, then by layer.
        columns: float64 [samples, cells] of the table's columns of these names; NaN where there is no value.
    """

    prompts: list[str]
    cells: list[tuple[str, int]]
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, table: pa.Table, names: Sequence[str]) -> Cells:
        """Of a table with windows of one width."""
        table = as_sweep(table)
        prompt = column(table, "prompt").combine_chunks().dictionary_encode()
        rows, prompts = prompt.indices.to_numpy(zero_copy_only=False), prompt.dictionary.to_pylist()
        path = column(table, "knockout").combine_chunks().dictionary_encode()
        paths, layer = path.indices.to_numpy(zero_copy_only=False), column(table, "layer").to_numpy()
        both, place_of = np.unique(np.stack([paths, layer]), axis=1, return_inverse=True)
        cells = [(path.dictionary[int(p)].as_py(), int(x)) for p, x in both.T]
        place = rows.astype(np.int64) * len(cells) + place_of.reshape(-1)
        if len(np.unique(place)) < len(place):
            _, first, count = np.unique(place, return_index=True, return_counts=True)
            at = table.slice(int(first[count > 1][0]), 1).to_pylist()[0]
            raise InputError(
                f"prompt {at['prompt']!r} has several values of {at['knockout']!r} at layer {at['layer']}: give one "
                "run's rows, and compare two with avflow.results.difference"
            )
        columns = {}
        for name in names:
            values = np.full((len(prompts), len(cells)), np.nan)
            values[rows, place_of.reshape(-1)] = column(table, name).to_numpy()
            lost = np.isneginf(values) & (name == "logp_knockout")  # to nothing: see _log_changes
            values[~np.isfinite(values) & ~lost] = np.nan  # a clean probability of 0 has no relative change
            columns[name] = values
        return cls(prompts, cells, columns)

    def labels(self, cluster: Clusters | None) -> list[Hashable] | None:
        """The cluster of every prompt; None where each is its own. Raises InputError for a prompt without one."""
        if cluster is None:
            return None
        if callable(cluster):
            return [cluster(prompt) for prompt in self.prompts]
        if not isinstance(cluster, Mapping):
            raise InputError(
                f"cluster is {checks.shown(cluster)}: pass {{prompt: its video}}, or a function of a prompt"
            )
        if missing := [prompt for prompt in self.prompts if prompt not in cluster]:
            raise InputError(f"cluster names no cluster of prompt {missing[0]!r}: pass one for every prompt")
        return [cluster[prompt] for prompt in self.prompts]


_NEEDS = {
    "mean": ("change_percent",),
    "median": ("change_percent",),
    "ratio_of_means": ("p_clean", "p_knockout"),
    "difference": ("p_clean", "p_knockout"),
    "log_ratio": ("logp_clean", "logp_knockout"),
}


def _log_changes(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """[samples, cells]. Without the samples that lost most, the others' mean would pass for that of all."""
    changes = columns["logp_knockout"] - columns["logp_clean"]
    if lost := int(np.isneginf(changes).any(1).sum()):
        raise InputError(
            f"the answer's probability falls to 0 in {lost} of {len(changes)} samples, and a geometric mean with it: "
            'pass another center, such as "median" or "difference"'
        )
    return changes


def _values(columns: Mapping[str, np.ndarray], center: str) -> np.ndarray:
    """What every sample says of every cell, [samples, cells]: percent, a difference of logs, or points."""
    if center == "mean":
        return columns["change_percent"]
    if center == "log_ratio":
        return _log_changes(columns)
    return 100 * (columns["p_knockout"] - columns["p_clean"])


def _ratios(columns: Mapping[str, np.ndarray], center: str, clusters: Sequence[Hashable] | None) -> Ratios:
    values = _values(columns, center)
    if center == "ratio_of_means":
        return Ratios.of_two(values, columns["p_clean"], clusters)
    return Ratios.of_means(values, clusters)


def _shown(values: np.ndarray, center: str) -> np.ndarray:
    """In the unit of the figure. No relative change lies below -100 %, so no interval does."""
    if center == "log_ratio":
        with np.errstate(over="ignore"):
            return 100 * np.expm1(values)
    return values if center == "difference" else np.maximum(values, -100.0)


@renamed_keyword("which", "select")
def average_change(
    table: Any,
    *,
    select: str = "all",
    center: Center = "mean",
    interval: Interval = "bootstrap-t",
    confidence: float = 0.95,
    cluster: Clusters | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pa.Table:
    """Average change over samples, per knockout and layer, with its interval.

    Samples are drawn whole (all layers of a sample together), so intervals are comparable along a line. Rows without a
    value are left out. Columns: knockout, layer, change, low, high, samples. low and high are null where fewer than two
    samples (clusters) have a value, or six for "simultaneous".

    Args:
        table: `Results` or its table. select: correct, wrong or all samples.
        center: "mean", of the percentages, as the studies have it: one sample whose clean probability is next to
            nothing can drown all others; "median", of the percentages; "ratio_of_means", of the mean probabilities, in
            percent; "log_ratio", of the geometric means, in percent; "difference", of probabilities, in points.
        interval: of every cell by itself "bootstrap-t", "bca" or "percentile" (see `avflow.statistics.intervals`; of a
            median always "percentile"); or "simultaneous", which holds all cells at once (`avflow.statistics.many`).
        cluster: {prompt: label} or a function; prompts of one label, such as the questions on one video, are drawn
            together. `avflow.runs.records.videos(folder)` gives it of a run.
        resamples, seed: of the bootstrap.

    Raises:
        InputError: several widths of window, or a value out of range.
    """
    checks.choice("center", center, CENTERS)
    checks.choice("interval", interval, INTERVALS)
    intervals.check(confidence, resamples, seed)
    if center == "median" and interval == "simultaneous":
        raise InputError("a median has no simultaneous band: pass another center, or another interval")
    found = Cells.of(one_width(_selected(table, select)), _NEEDS[center])
    labels = found.labels(cluster)
    if center == "median":
        values = found.columns["change_percent"]
        draws = _sample_draws(len(found.prompts), labels, resamples, seed)
        middle, low, high = intervals.median_interval(values, draws, confidence)
    else:
        ratios = _ratios(found.columns, center, labels)
        middle = ratios.estimate
        if interval == "simultaneous":
            low, high = many.band(ratios, confidence, seed=seed)
        else:
            low, high = intervals.interval(ratios, confidence, interval, resamples, seed)
        middle, low, high = (_shown(ends, center) for ends in (middle, low, high))
    samples = (~np.isnan(np.stack([found.columns[name] for name in _NEEDS[center]])).any(0)).sum(0)
    kept = np.flatnonzero(samples)
    columns = {
        "knockout": pa.array([found.cells[i][0] for i in kept], pa.string()),
        "layer": pa.array([found.cells[i][1] for i in kept], pa.int32()),
        "change": pa.array(middle[kept], pa.float64()),
        "low": pa.array(low[kept], pa.float64(), from_pandas=True),
        "high": pa.array(high[kept], pa.float64(), from_pandas=True),
        "samples": pa.array(samples[kept], pa.int32()),
    }
    return pa.table(columns)


def _sample_draws(
    count: int, labels: Sequence[Hashable] | None, resamples: int, seed: int
) -> np.ndarray:  # [resamples, samples]
    if labels is None:
        return intervals.draws_of(count, resamples, seed)
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return intervals.draws_of(len(numbers), resamples, seed)[:, [numbers[label] for label in labels]]


@renamed_keyword("which", "select")
def mean_change(table: Any, *, select: str = "all", **options: Any) -> pa.Table:
    """Mean of change_percent over samples: `average_change` with center="mean", its column `change` named `mean`.

    Raises:
        InputError: as `average_change`; another center.
    """
    if options.get("center", "mean") != "mean":
        raise InputError(f"mean_change has no center {options['center']!r}: call avflow.results.average_change")
    changes = average_change(table, select=select, **options)
    return changes.rename_columns(["mean" if name == "change" else name for name in changes.column_names])


@renamed_keyword("which", "select")
def significance(
    table: Any,
    *,
    select: str = "all",
    center: Center = "mean",
    by_task: bool = False,
    cluster: Clusters | None = None,
    flips: int = many.FLIPS,
    seed: int = 0,
) -> pa.Table:
    """Which changes are there for sure, after correction for all that was looked at.

    p is the chance that, were no path to change anything, any cell of the table were as far from 0 as this one: signs
    of whole samples are flipped and the largest absolute t kept (`avflow.statistics.many`). Columns: task ("" for all
    samples), knockout, layer, change, p, samples; p is null where fewer than six samples (clusters) have a value, for
    fewer can never be sure.

    Args:
        table, select, center, cluster: as of `average_change`; no median.
        by_task: a cell of every task, instead of one of all samples; all tasks are corrected for together.
        flips: patterns of signs; below 2 ** (samples - 1) all of them are taken.

    Raises:
        InputError: as `average_change`.
    """
    if center == "median":
        raise InputError("a median has no t: test another center")
    checks.choice("center", center, CENTERS)
    intervals.check(seed=seed)
    flips = checks.integer("flips", flips, low=20, mend="pass at least 20 (4096 is usual)")
    table = one_width(_selected(table, select))
    found = Cells.of(table, _NEEDS[center])
    tasks, member = [""], np.ones((1, len(found.prompts)), bool)  # [tasks, samples]
    if by_task:
        of = dict(zip(table["prompt"].to_pylist(), table["task"].to_pylist(), strict=True))
        of_prompt = np.array([of[prompt] or "" for prompt in found.prompts])
        tasks = list(dict.fromkeys(of_prompt.tolist()))
        member = np.stack([of_prompt == task for task in tasks]) if tasks else member[:0]
    columns = {
        name: np.concatenate([np.where(m[:, None], values, np.nan) for m in member], 1)
        for name, values in found.columns.items()
    }  # [samples, tasks x cells]
    ratios = _ratios(columns, center, found.labels(cluster))
    p = many.p_values(ratios, flips, seed)
    samples = (~np.isnan(np.stack(list(columns.values()))).any(0)).sum(0)
    kept, cells = np.flatnonzero(samples), len(found.cells)
    return pa.table(
        {
            "task": pa.array([tasks[i // cells] for i in kept], pa.string()),
            "knockout": pa.array([found.cells[i % cells][0] for i in kept], pa.string()),
            "layer": pa.array([found.cells[i % cells][1] for i in kept], pa.int32()),
            "change": pa.array(_shown(ratios.estimate, center)[kept], pa.float64()),
            "p": pa.array(p[kept], pa.float64(), from_pandas=True),
            "samples": pa.array(samples[kept], pa.int32()),
        }
    )


def difference(
    a: Any,
    b: Any,
    *,
    select: str = "all",
    center: Center = "mean",
    depth: bool = False,
    cluster: Clusters | None = None,
    confidence: float = 0.95,
    flips: int = many.FLIPS,
    seed: int = 0,
) -> pa.Table:
    """Of two sweeps over the same samples (two models, two paths, two ways of asking): where they differ for sure.

    Every sample is compared with itself. Columns: knockout, layer, change_a, change_b, difference (a - b; in percentage
    points, of a "log_ratio" in percent), low, high (a band that holds all cells at once), p (corrected for all cells),
    samples.

    Args:
        a, b: `Results` or tables, compared where they have the same path and layer. Of two paths of one sweep, give
            `avflow.results.path(results, "video->question")` and the other.
        select: samples that are right ("correct") or wrong in both; "all".
        center: as of `average_change`, but for "median" and "ratio_of_means", whose differences are none of samples.
        depth: compare layers of the same relative depth, for models with unlike many layers: each layer of a with the
            nearest of b; `layer` is a's.

    Raises:
        InputError: as `average_change`; nothing in common.
    """
    if center not in ("mean", "log_ratio", "difference"):
        raise InputError(f"center {center!r}: the difference of two sweeps has mean, log_ratio and difference")
    intervals.check(confidence, seed=seed)
    flips = checks.integer("flips", flips, low=20, mend="pass at least 20 (4096 is usual)")
    sides = [Cells.of(one_width(_selected(table, select)), _NEEDS[center]) for table in (a, b)]
    numbers = [{prompt: number for number, prompt in enumerate(side.prompts)} for side in sides]
    both = [prompt for prompt in sides[0].prompts if prompt in numbers[1]]
    at = _matched(sides[0].cells, sides[1].cells, depth)
    if not both or not at:
        what = "sample" if not both else "path and layer"
        raise InputError(f"the two tables have no {what} in common: sweep the same samples and paths")
    values = []
    for side, number, cells in zip(sides, numbers, zip(*at, strict=True), strict=True):
        rows = [number[prompt] for prompt in both]
        columns = {name: column[np.ix_(rows, cells)] for name, column in side.columns.items()}
        values.append(_values(columns, center))
    labels = Cells(both, [], {}).labels(cluster)
    unlike = values[0] - values[1]
    values = [np.where(np.isnan(unlike), np.nan, side) for side in values]
    ratios = Ratios.of_means(unlike, labels)
    low, high = many.band(ratios, confidence, flips, seed)
    p = many.p_values(ratios, flips, seed)
    samples = (~np.isnan(unlike)).sum(0)
    kept = np.flatnonzero(samples)
    means = [Ratios.of_means(side).estimate for side in values]
    if center == "log_ratio":
        means, middle = [_shown(m, center) for m in means], _shown(ratios.estimate, center)
        low, high = _shown(low, center), _shown(high, center)
    else:
        middle = ratios.estimate
    shown = {"change_a": means[0], "change_b": means[1], "difference": middle, "low": low, "high": high, "p": p}
    return pa.table(
        {
            "knockout": pa.array([sides[0].cells[at[i][0]][0] for i in kept], pa.string()),
            "layer": pa.array([sides[0].cells[at[i][0]][1] for i in kept], pa.int32()),
            **{name: pa.array(v[kept], pa.float64(), from_pandas=True) for name, v in shown.items()},
            "samples": pa.array(samples[kept], pa.int32()),
        }
    )


def _matched(a: list[tuple[str, int]], b: list[tuple[str, int]], depth: bool) -> list[tuple[int, int]]:
    """Which cell of b belongs to which of a: pairs of columns."""
    last_a, last_b = (max([layer for _, layer in cells], default=0) or 1 for cells in (a, b))
    place = {cell: number for number, cell in enumerate(b)}
    pairs = []
    for number, (path, layer) in enumerate(a):
        other = (path, round(layer * last_b / last_a) if depth else layer)
        if other in place:
            pairs.append((number, place[other]))
    return pairs


def path(table: Any, name: str) -> pa.Table:
    """The rows of one path, under the name "path": of two paths of one sweep, what `difference` compares.

    Raises:
        InputError: no such path.
    """
    table = as_sweep(as_table(table))
    if name not in (there := paths_of(table)):
        raise InputError(f"no path {checks.shown(name)} in the table: it has {', '.join(there)}")
    rows = table.filter(pc.equal(table["knockout"], name))
    at = rows.schema.get_field_index("knockout")
    return rows.set_column(at, "knockout", pa.array(["path"] * rows.num_rows, pa.string()))


def bootstrap(values: np.ndarray, confidence: float, resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    """values [samples, columns], NaN where there is none -> mean, low, high (percentiles), samples, each [columns]."""
    ratios = Ratios.of_means(values)
    low, high = intervals.interval(ratios, confidence, "percentile", resamples, seed)
    return ratios.estimate, low, high, ratios.units
