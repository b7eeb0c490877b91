"""Samples of a data set: reading them, and choosing some."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import checks
from ..errors import InputError
from ..prompts.sample import Sample
from .layouts import mapping_of
from .mapping import DataMapping
from .rows import is_hub, read_rows
from .values import LeftOut


@dataclass
class Dataset:
    """Samples in the data set's order. left_out: reason -> rows that the mapping does not take. bad: row -> why it
    makes no sample, where such rows are skipped."""

    samples: list[Sample]
    left_out: dict[str, int] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)


def read(
    source: str | Path,
    mapping: str | Path | DataMapping | None = None,
    media: str | Path | None = None,
    answers: bool = True,
    skip_bad: bool = False,
) -> Dataset:
    """Samples of a file (.jsonl, .json, .csv, .tsv, .parquet), of a folder of such files, or of "hf:owner/name".

    Args:
        mapping: a name of MAPPINGS, a YAML or JSON file, or a DataMapping. None: columns called as a Sample's fields.
        media: folder that paths are relative to. None: the folder of the file; the current one for the hub.
        answers: False: rows may lack one, see `Sample.open`.
        skip_bad: rows that make no sample, and later ones of an id that is there, are in `.bad`, and the others read.
            Where no row makes one, the first one's reason is raised; so is what is wrong with a whole file.

    Raises:
        InputError: no such file, mapping or column, a row that makes no sample, two samples with one id; with the row.
    """
    path, answers = checks.path("samples", source), checks.flag("answers", answers)
    bad: dict[str, str] = {}
    if mapping is None and path.suffix.lower() == ".jsonl" and media is None:
        samples = Sample.read_jsonl(path, answers, bad if checks.flag("skip_bad", skip_bad) else None)
        return _whole(source, Dataset(samples, {}, bad))
    chosen = mapping_of("avflow" if mapping is None else mapping)
    chosen = chosen if answers else chosen.without_answers()
    if media is not None:
        folder = checks.path("media", media).absolute()
    else:
        folder = (Path() if is_hub(source) else path if path.is_dir() else path.parent).absolute()
    samples = []
    left_out: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for where, row in read_rows(source, chosen):
        if isinstance(row, InputError):
            if not checks.flag("skip_bad", skip_bad):
                raise row
            bad[where] = str(row)
            continue
        try:
            sample = chosen.sample(row, folder, answers)
            if sample.id in seen:
                raise InputError(f"id {sample.id!r} is that of {seen[sample.id]} too: ids must differ")
        except LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        except InputError as error:
            if not checks.flag("skip_bad", skip_bad):
                raise InputError(f"{where}: {error}") from error
            bad[where] = str(error)
            continue
        seen[sample.id] = where
        samples.append(sample)
    return _whole(source, Dataset(samples, dict(left_out), bad))


def _whole(source: str | Path, found: Dataset) -> Dataset:
    """The same. Raises InputError where it holds no sample."""
    if not found.samples and found.bad:
        where, reason = next(iter(found.bad.items()))
        raise InputError(f"{where}: {reason}" + (f" (and {len(found.bad) - 1} more)" if len(found.bad) > 1 else ""))
    if not found.samples:
        reasons = "; ".join(f"{n} left out: {reason}" for reason, n in found.left_out.items())
        raise InputError(f"{source} holds no sample" + (f" ({reasons})" if reasons else ""))
    return found


def choose(
    samples: Iterable[Sample],
    tasks: str | Iterable[str] = (),
    limit: int | None = None,
    shuffle_seed: int | None = None,
) -> list[Sample]:
    """Some of the samples: those of the tasks, in a random order of this seed, the first so many.

    The order goes by a hash of seed and id, so a larger limit keeps the samples of a smaller one.

    Raises:
        InputError: a task that no sample has, a limit below 1, a seed that is no integer, something that is no Sample.
    """
    samples, tasks = _sample_list(samples), checks.texts("tasks", tasks)
    if limit is not None:
        limit = checks.integer("limit", limit, low=1, mend="give a number of samples, 1 or more")
    if shuffle_seed is not None:
        shuffle_seed = checks.integer("shuffle_seed", shuffle_seed, low=-(2**63))
    there = sorted({sample.task for sample in samples})
    if unknown := [task for task in tasks if task not in there]:
        raise InputError(f"no sample is of the task {unknown[0]!r}: there are {there}")
    if tasks:
        samples = [sample for sample in samples if sample.task in tasks]
    if shuffle_seed is not None:
        samples.sort(key=lambda s: hashlib.sha256(f"{shuffle_seed}\n{s.id}".encode()).digest())
    return samples[:limit]


def _sample_list(samples: Any) -> list[Sample]:
    found: list[Sample] = []
    for one in checks.each(samples) or [samples]:
        if not isinstance(one, Sample):
            raise InputError(f"samples hold {checks.shown(one)}: pass avflow.Sample, such as avflow.data.read gives")
        found.append(one)
    return found
