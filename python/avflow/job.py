"""A sweep over a file of samples, into a run folder: what `avflow sweep` does, as functions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import __version__
from .errors import AvflowError, InputError
from .progress import Progress
from .results import Results
from .runs import RunFolder


@dataclass
class SweepJob:
    """What to sweep. Everything here but device, memory and limit decides the numbers and so stands in config.yaml.

    `layers`: centres of the windows, 0-based; None for all. `memory`: "8GB" or bytes for a walk; None: what is free.
    `media`: options for model.prepare, such as fps and max_pixels.
    """

    model: str
    samples: Path
    knockouts: list[str]
    window: int = 7
    style: str = "center"
    layers: list[int] | None = None
    select: str = "correct"
    semantics: str = "renormalize"
    dtype: str = "float32"
    media: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    memory: int | str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        from .presets import PRESETS, preset
        from .sweep import SweepRequest

        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}: give a number of samples, 1 or more")
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
        model = Path(self.model)
        return {
            "model": str(model.absolute()) if model.is_dir() else self.model,
            "samples": str(Path(self.samples).absolute()),
            "knockouts": [k.name for k in self.request.knockouts],
            "window": self.window,
            "style": self.style,
            "layers": "all" if self.layers is None else self.layers,
            "select": self.select,
            "semantics": self.semantics,
            "dtype": self.dtype,
            **self.media,
        }

    def read_samples(self) -> list:
        from .sample import Sample

        return Sample.read_jsonl(Path(self.samples).absolute())[: self.limit]

    def load(self):
        from .models import load

        return load(self.model, device=self.device, dtype=self.dtype)


@dataclass
class Outcome:
    results: Results
    counts: dict[str, int]  # by status, of the samples asked for
    skipped: int  # of these, finished by an earlier run


def run(job: SweepJob, out: Path, *, debug: bool = False, quiet: bool = False) -> Outcome:
    """Sweep every sample that `out` does not hold yet; then merge. A sample that fails is recorded and the run goes on.

    Raises InputError for a folder of another configuration, RunError where it cannot be written. `debug`: a sample's
    exception ends the run.
    """
    samples = job.read_samples()
    with RunFolder(out, job.config()) as folder:
        todo = [s for s in samples if not folder.finished(s.id, digest(s))]
        if todo:
            model = job.load()
            job.request.windows(model)  # layers and heads that the model lacks are told here, not once per sample
            with Progress(len(samples), len(samples) - len(todo), quiet=quiet) as bar:
                for sample, record in swept(model, todo, job, debug, bar):
                    folder.add(sample.id, digest=digest(sample), **record)
                    if record["status"] == "failed":
                        bar.write(f"sample {sample.id} failed: {record['reason']}")
                    bar.finish()
        results = folder.finish([s.id for s in samples], {"versions": _versions()})
        asked = {s.id for s in samples}
        statuses = [r["status"] for i, r in folder.records.items() if i in asked]
    counts = {status: statuses.count(status) for status in ("ok", "selected_out", "failed")}
    return Outcome(results, counts, len(samples) - len(todo))


def swept(
    model, samples: list, job: SweepJob, debug: bool = False, bar: Progress | None = None
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(sample, its record as RunFolder.add takes it) of every sample. Neighbouring short prompts share a walk.

    Whatever goes wrong with a sample becomes a record with the reason; with `debug` it is raised.
    """
    from .sweep import packs, sweep_prompts

    failed: list[tuple[Any, dict[str, Any]]] = []
    by_id = {sample.id: sample for sample in samples}

    def prepared():
        for sample in samples:
            start = time.monotonic()
            try:
                yield model.prepare(sample, **job.media)
            except Exception as error:
                failed.append((sample, _failure(error, start, debug)))

    for pack in packs(model, prepared(), job.request):
        start = time.monotonic()
        try:
            parts = sweep_prompts(model, pack, job.request, bar and bar.begin(len(pack)))
            records = [_record_of(part, job.request.select) for part in parts]
        except Exception as error:
            records = [_failure(error, start, debug)]
            if len(pack) > 1:  # one of them is to blame: alone, the others are swept
                records = [_alone(model, prompt, job.request, debug) for prompt in pack]
        yield from zip([by_id[prompt.id] for prompt in pack], records, strict=True)
        while failed:
            yield failed.pop(0)
    yield from failed


def _alone(model, prompt, request, debug: bool) -> dict[str, Any]:
    from .sweep import sweep_prompts

    start = time.monotonic()
    try:
        return _record_of(sweep_prompts(model, [prompt], request)[0], request.select)
    except Exception as error:
        return _failure(error, start, debug)


def _failure(error: Exception, start: float, debug: bool) -> dict[str, Any]:
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
    from .sweep import estimate

    samples, model = job.read_samples(), job.load()
    job.request.windows(model)
    for sample in samples:
        try:
            prompt = model.prepare(sample, **job.media)
            yield sample.id, estimate(model, prompt, job.request)
        except AvflowError as error:
            yield sample.id, str(error)


def digest(sample) -> str:
    """Changes when the sample's text or paths do."""
    return hashlib.sha256(repr(sorted(asdict(sample).items())).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")} | {"avflow": __version__}
