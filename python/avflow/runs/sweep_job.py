"""A sweep over a file of samples, into a run folder: what `avflow sweep` does, as functions.

Every sample is swept in walks of its own (`avflow.sweep` lets short prompts share them): its rows then depend neither
on the samples beside it, nor on which of them were finished before a kill, nor on how many workers there are.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import AvflowError, InputError
from ..progress import Progress
from ..results.results import Results
from .folder import RunFolder
from .prefetch import prefetch


@dataclass
class Source:
    """What jobs over samples share: which model, which samples.

    `samples`, `data`, `media_root`: as avflow.data.read takes them. `tasks`, `limit`, `shuffle_seed`: which samples, as
    avflow.data.choose takes them. `media`: options for model.prepare, such as fps and max_pixels. `debug`: a sample's
    exception ends the run.
    """

    model: str
    samples: str | Path
    _: KW_ONLY
    dtype: str = "float32"
    media: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    device: str = "cpu"
    media_root: str | Path | None = None
    tasks: list[str] = field(default_factory=list)
    limit: int | None = None
    shuffle_seed: int | None = None
    debug: bool = False
    left_out: dict[str, int] = field(default_factory=dict, init=False)  # rows that `data` does not take: why, how many

    def check_counts(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}: give a number of samples, 1 or more")

    def source_config(self) -> dict[str, Any]:
        """The first values of config.yaml."""
        from ..data import is_hub, mapping_of

        data = {} if self.data is None else {"data": mapping_of(self.data).to_dict()}
        samples = str(self.samples) if is_hub(self.samples) else str(Path(self.samples).absolute())
        return {"model": _absolute(self.model), "samples": samples, **data}

    def read_samples(self) -> list:
        """The samples asked for. Raises InputError where one is wrong, or two have one id."""
        from ..data import choose, is_hub, read

        source = self.samples if is_hub(self.samples) else Path(self.samples).absolute()
        found = read(source, self.data, self.media_root)
        self.left_out = found.left_out
        return choose(found.samples, self.tasks, self.limit, self.shuffle_seed)

    def load(self):
        from ..models import load

        return load(self.model, device=self.device, dtype=self.dtype)


@dataclass
class SweepJob(Source):
    """What to sweep. Source, knockouts, window, style, layers, select and semantics decide the numbers and so stand in
    config.yaml.

    `layers`: centres of the windows, 0-based; None for all. `memory`: "8GB" or bytes for a walk; None: what is free.
    `workers`: processes, or Ray actors where `ray` is a cluster's address ("local" starts one); None: one process, or
    all slots of the cluster.
    """

    knockouts: list[str]
    window: int | list[int] = 7
    style: str = "center"
    layers: list[int] | None = None
    select: str = "correct"
    semantics: str = "renormalize"
    memory: int | str | None = None
    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        from ..experiments.sweep import SweepRequest
        from ..knockouts.presets import PRESETS, preset

        self.check_counts()
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers is {self.workers}: give a number of processes, 1 or more")
        self.request = SweepRequest(
            knockouts=[k for text in self.knockouts for k in (preset(text) if text in PRESETS else [text])],
            window=self.window,
            style=self.style,
            layers=self.layers,
            select=self.select,
            semantics=self.semantics,
            memory=self.memory,
        )

    def config(self) -> dict[str, Any]:
        """The values of config.yaml. Local paths are made absolute: the folder may be resumed from elsewhere."""
        return {
            **self.source_config(),
            "knockouts": [k.name for k in self.request.knockouts],
            "window": self.window,
            "style": self.style,
            "layers": "all" if self.layers is None else self.layers,
            "select": self.select,
            "semantics": self.semantics,
            "dtype": self.dtype,
            **self.media,
        }


@dataclass
class Outcome:
    results: Results
    counts: dict[str, int]  # by status, of the samples asked for
    skipped: int  # of these, finished by an earlier run


def run(job: SweepJob, out: Path, *, debug: bool = False, quiet: bool = False) -> Outcome:
    """Sweep every sample that `out` does not hold yet; then merge. A sample that fails is recorded and the run goes on.

    Raises InputError for a folder of another configuration, RunError where it cannot be written.
    """
    job.debug = job.debug or debug
    samples = job.read_samples()
    with RunFolder(out, job.config()) as folder:
        todo = [s for s in samples if not folder.finished(s.id, digest(s))]
        if todo:
            with Progress(len(samples), len(samples) - len(todo), quiet=quiet) as bar:
                for reason, rows in job.left_out.items():
                    bar.write(f"{rows} rows are left out: {reason}")
                for sample, record in work(job, todo, bar):
                    folder.add(sample.id, digest=digest(sample), **record)
                    if record["status"] == "failed":
                        bar.write(f"sample {sample.id} failed: {record['reason']}")
                    bar.finish()
        results = folder.finish([s.id for s in samples], {"versions": _versions()})
        asked = {s.id for s in samples}
        statuses = [r["status"] for i, r in folder.records.items() if i in asked]
    counts = {status: statuses.count(status) for status in ("ok", "selected_out", "failed")}
    return Outcome(results, counts, len(samples) - len(todo))


def work(job: SweepJob, samples: list, bar: Progress | None = None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(sample, its record as RunFolder.add takes it) of every sample, here or by workers, in the order of arrival.

    Whatever goes wrong with a sample becomes a record with the reason; with debug it is raised.
    """
    if job.ray is None and (job.workers or 1) == 1:
        model = job.load()
        job.request.windows(model)  # layers and heads that the model lacks are told here, not once per sample
        yield from swept(model, samples, job, bar)
        return
    from .workers.dispatch import dispatch
    from .workers.on_ray import RayPool
    from .workers.processes import ProcessPool

    job = replace(job, model=_absolute(job.model))  # actors have another working directory
    pool = RayPool(job, job.ray, job.workers) if job.ray is not None else ProcessPool(job, job.workers)
    yield from dispatch(samples, pool)


def swept(model, samples: list, job: SweepJob, bar: Progress | None = None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """As `work`, by this process with this model, in the order of the samples. The next one is decoded meanwhile."""
    for sample, prompt, start in prefetch(prepared(model, sample, job) for sample in samples):
        yield sample, swept_prompt(model, prompt, job, start, bar and bar.begin(1))


def prepared(model, sample, job: SweepJob) -> tuple[Any, Any, float]:
    """The sample, its prompt or the record that says why there is none, and when that was begun."""
    start = time.monotonic()
    try:
        return sample, model.prepare(sample, **job.media), start
    except Exception as error:
        return sample, failure(error, start, job.debug), start


def swept_prompt(model, prompt, job: SweepJob, start: float, tick=None) -> dict[str, Any]:
    """The record of a prompt; of a sample without one it is there already."""
    from ..experiments.sweep import sweep_prompts

    if isinstance(prompt, dict):
        return prompt
    try:
        return _record_of(sweep_prompts(model, [prompt], job.request, tick)[0], job.request.select)
    except Exception as error:
        return failure(error, start, job.debug)


def failure(error: Exception, start: float, debug: bool) -> dict[str, Any]:
    """One sample in thousands that breaks a decoder must not end a night's run: its reason is kept, the run goes on."""
    if debug:
        raise error
    name = "" if isinstance(error, AvflowError) else f"{type(error).__name__}: "
    reason = " ".join(f"{name}{error}".split())
    return {"status": "failed", "reason": reason, "seconds": round(time.monotonic() - start, 3)}


def _record_of(part, select: str) -> dict[str, Any]:
    info = part.info
    record = {name: info.get(name) for name in ("p_clean", "correct", "seconds")}
    if info.get("selected", bool(part.rows)):
        return {"rows": part.rows, "status": "ok", **record}
    answered = "right" if record["correct"] else "wrong"
    return {"status": "selected_out", "reason": f"the clean answer is {answered}, select is {select!r}", **record}


def estimates(job: SweepJob) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(sample id, estimate or the reason why there is none) of every sample; runs no layer."""
    from ..experiments.sweep import estimate

    samples, model = job.read_samples(), job.load()
    job.request.windows(model)
    for sample in samples:
        try:
            prompt = model.prepare(sample, **job.media)
            yield sample.id, estimate(model, prompt, job.request)
        except AvflowError as error:
            yield sample.id, str(error)


def digest(sample) -> str:
    """Changes when the sample's text or paths do. Only of what is set: a field that Sample gains changes nothing."""
    there = sorted((k, v) for k, v in asdict(sample).items() if v is not None)
    return hashlib.sha256(repr(there).encode()).hexdigest()[:16]


def _absolute(model: str) -> str:
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")} | {"avflow": __version__}
