"""The one loop that brings samples into a run folder: resume, workers, failures, progress, merge.

Every sample is measured in walks of its own (`avflow.sweep` lets short prompts share them): its rows then depend
neither on the samples beside it, nor on which of them were finished before a kill, nor on how many workers there are.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from .. import __version__
from ..data.ahead import ahead
from ..errors import AvflowError
from ..models.base import Model
from ..models.fingerprint import model_fingerprint
from ..progress import Progress
from ..prompts.sample import Sample
from ..results.results import Results
from .folder import RunFolder
from .job import Record, RunJob
from .records import STATUSES
from .source import absolute_model, digest
from .summary import summarize
from .workers.dispatch import dispatch
from .workers.on_ray import RayPool
from .workers.processes import ProcessPool


@dataclass
class Outcome:
    """What came of a run.

    results: the rows of the whole folder. asked: the samples asked for. records: theirs, by id. skipped: so many of
    them were finished by an earlier run. bad: rows of the samples file that make no sample, and why.
    """

    results: Results
    asked: list[Sample]
    records: dict[str, Record]
    skipped: int
    bad: dict[str, str]

    @property
    def table(self) -> pa.Table:
        return self.results.table

    @property
    def meta(self) -> dict[str, Any]:
        """Of rows.parquet."""
        return {k: v for k, v in self.results.meta.items() if k != "finished"}

    @property
    def samples(self) -> int:
        """How many were asked for."""
        return len(self.asked)

    @property
    def counts(self) -> dict[str, int]:
        """Samples by status."""
        statuses = [r["status"] for r in self.records.values()]
        return {status: statuses.count(status) for status in STATUSES}

    @property
    def failed(self) -> dict[str, str]:
        """Sample id: reason."""
        return {name: r["reason"] for name, r in self.records.items() if r["status"] == "failed"}


def run(job: RunJob, out: str | Path, *, debug: bool = False, quiet: bool = False) -> Outcome:
    """Measures every sample that `out` does not hold yet; then merges. A sample that fails is recorded.

    Args:
        out: the run folder. debug: a sample's exception ends the run. quiet: no progress bar.

    Raises:
        InputError: a folder of another configuration. RunError: it cannot be written.
    """
    with measured(job, out, debug=debug, quiet=quiet) as (folder, outcome):
        folder.write_summary({**summarize(outcome.table, folder.records.values()), **outcome.meta})
    return outcome


@contextmanager
def measured(
    job: RunJob,
    out: str | Path,
    *,
    debug: bool = False,
    quiet: bool = False,
    load: Callable[[], Model] | None = None,
) -> Iterator[tuple[RunFolder, Outcome]]:
    """`run` without its summary: inside the block every sample is measured, and the folder is still locked.

    load: gives the model, where this process is the one that measures; None: job.load.
    """
    job.debug = job.debug or debug
    samples, config = job.read_samples(), job.config()
    with RunFolder(out, config, job.schema, restart=job.restart) as folder:
        folder.write_bad_rows(job.bad)
        todo = [s for s in samples if not folder.finished(s.id, digest(s))]
        if todo:
            with Progress(len(samples), len(samples) - len(todo), quiet=quiet, doing=job.doing) as bar:
                if folder.aside is not None:
                    bar.write(f"the run that was in {out} is kept in {folder.aside}")
                for reason, rows in job.left_out.items():
                    bar.write(f"{rows} rows are left out: {reason}")
                for sample, record in work(job, todo, bar, _known(load or job.load, folder, config)):
                    folder.add(sample.id, digest=digest(sample), **record)
                    if record["status"] == "failed":
                        bar.write(f"sample {sample.id} failed: {record['reason']}")
                    bar.finish()
        bad = {"bad_rows": job.bad} if job.bad else {}
        table, meta = folder.merge([s.id for s in samples], {"versions": _versions(), **bad})
        records = {s.id: folder.records[s.id] for s in samples}
        yield (
            folder,
            Outcome(Results(table, {**meta, "finished": True}), samples, records, len(samples) - len(todo), job.bad),
        )


def _known(load: Callable[[], Model], folder: RunFolder, config: dict[str, Any]) -> Callable[[], Model]:
    """`load`, after which the folder knows the model, also one that comes from no checkpoint's files."""

    def loaded() -> Model:
        model = load()
        if "fingerprint" not in config:
            folder.know_model(model_fingerprint(model.hf))
        return model

    return loaded


def work(
    job: RunJob, samples: Sequence[Sample], bar: Progress | None = None, load: Callable[[], Model] | None = None
) -> Iterator[tuple[Sample, Record]]:
    """(sample, its record as RunFolder.add takes it) of every sample, here or by workers, in the order of arrival.

    Whatever goes wrong with a sample becomes a record with the reason; with job.debug it is raised.
    """
    if job.ray is None and (job.workers or 1) == 1:
        model = (load or job.load)()
        job.begin(model)
        yield from _work_here(job, model, samples, bar)
        return
    job = copy.copy(job)
    job.model = absolute_model(job.model)  # actors have another working directory
    pool = ProcessPool(job, job.workers or 1) if job.ray is None else RayPool(job, job.ray, job.workers)
    yield from dispatch(samples, pool)


def _work_here(
    job: RunJob, model: Model, samples: Sequence[Sample], bar: Progress | None
) -> Iterator[tuple[Sample, Record]]:
    """As `work`, in this process and in the order of the samples. The next ones are decoded meanwhile."""
    prepared = ahead(lambda sample: (sample, job.prepare(model, sample)), samples, job.decode_threads)
    for sample, (prompt, begun) in prepared:
        yield sample, job.measure(model, prompt, begun, None if bar is None else bar.begin(1))


def estimates(job: RunJob, model: Model | None = None) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(sample id, its cost or the reason why there is none) of every sample; runs no layer, writes nothing.

    model: that of the job, where it is loaded already.
    """
    samples = job.read_samples()
    model = job.load() if model is None else model
    job.begin(model)
    for sample in samples:
        try:
            yield sample.id, job.cost(model, job.prompt_of(model, sample))
        except AvflowError as error:
            yield sample.id, str(error)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")} | {"avflow": __version__}
