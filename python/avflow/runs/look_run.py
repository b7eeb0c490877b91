"""What a run pays attention to and would say, over a file of samples, into a run folder: `avflow look`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from ..errors import InputError
from ..experiments.answer_lens import SCHEMA as LENS
from ..experiments.answer_lens import answer_lens
from ..experiments.attention_share import SCHEMA as SHARE
from ..experiments.attention_share import attention_share
from ..experiments.pathways import SCHEMA as PATHWAYS
from ..experiments.pathways import pathways
from ..experiments.sinks import SCHEMA as SINKS
from ..experiments.sinks import sinks
from ..experiments.sweep_text import SCHEMA as TEXT
from ..experiments.sweep_text import sweep_text
from ..files import writing
from ..plots import attention as plots_attention
from ..plots import information_flow as plots
from ..progress import Progress
from ..prompts.prompt import Prompt
from ..results.results import Results
from .folder import RunFolder, file_name
from .prefetch import prefetch
from .sweep_job import Source, digest, failure, prepared


@dataclass(frozen=True)
class Experiment:
    """run: (model, prompt, **options) -> Results of `schema`. draw: table -> figures by name."""

    schema: pa.Schema
    run: Callable[..., Results]
    draw: Callable[[pa.Table, int], dict[str, Figure]]


def _draw_share(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    tokens = sorted(set(table["answer_token"].to_pylist()))
    names = {0: "share_last"} | {t: f"share_answer_{t}" for t in tokens if t}
    return {
        names[t]: plots_attention.share_bars(table, token=t, title=_token_title(t), first_layer=first_layer)[0]
        for t in tokens
    }


def _token_title(token: int) -> str:
    return "Attention of the last token" if token == 0 else f"Attention of answer token {token}"


def _draw_lens(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    return {"lens": plots_attention.lens_lines(table, first_layer=first_layer)[0]}


def _draw_pathways(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    return {"pathways": plots_attention.pathway_bars(table)[0]}


EXPERIMENTS = {
    "share": Experiment(SHARE, attention_share, _draw_share),
    "lens": Experiment(LENS, answer_lens, _draw_lens),
    "sinks": Experiment(SINKS, sinks, lambda table, first_layer: {}),
    "pathways": Experiment(PATHWAYS, pathways, _draw_pathways),
    "text": Experiment(TEXT, sweep_text, lambda table, first_layer: {}),
}


@dataclass
class LookJob(Source):
    """What to look at. `options`: keyword arguments of the experiment."""

    experiment: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_counts()
        if self.experiment not in EXPERIMENTS:
            raise InputError(f"experiment {self.experiment!r}: pass one of {', '.join(EXPERIMENTS)}")

    def config(self) -> dict[str, Any]:
        """The values of config.yaml."""
        options = {name: str(v) if isinstance(v, dict) else v for name, v in self.options.items()}
        return {
            **self.source_config(),
            "experiment": self.experiment,
            **options,
            "dtype": self.dtype,
            **self.media,
        }


@dataclass
class LookOutcome:
    table: pa.Table
    failed: dict[str, str]  # sample id: reason
    samples: int  # asked for


def run_look(job: LookJob, out: Path, *, debug: bool = False, quiet: bool = False) -> LookOutcome:
    """Looks at every sample that `out` does not hold yet; then merges. A sample that fails is recorded.

    Raises:
        InputError: a folder of another configuration. RunError: it cannot be written.
    """
    job.debug = job.debug or debug
    samples = job.read_samples()
    with RunFolder(out, job.config(), EXPERIMENTS[job.experiment].schema) as folder:
        todo = [s for s in samples if not folder.finished(s.id, digest(s))]
        if todo:
            with Progress(len(samples), len(samples) - len(todo), quiet=quiet, doing=job.experiment) as bar:
                for reason, rows in job.left_out.items():
                    bar.write(f"{rows} rows are left out: {reason}")
                for sample, record in _looked(job, todo):
                    folder.add(sample.id, digest=digest(sample), **record)
                    if record["status"] == "failed":
                        bar.write(f"sample {sample.id} failed: {record['reason']}")
                    bar.finish()
        table, meta = folder.merge([s.id for s in samples])
        asked = {s.id: folder.records[s.id] for s in samples}
        failed = {name: r["reason"] for name, r in asked.items() if r["status"] == "failed"}
        folder.write_summary({"samples": len(samples), "rows": table.num_rows, "failed": failed, **meta})
    return LookOutcome(table, failed, len(samples))


def _looked(job: LookJob, samples: list) -> Iterator[tuple[Any, dict[str, Any]]]:
    model, experiment = job.load(), EXPERIMENTS[job.experiment]
    for sample, prompt, start in prefetch(prepared(model, sample, job) for sample in samples):
        record = prompt  # why there is none
        if isinstance(prompt, Prompt):
            try:
                rows = experiment.run(model, prompt, **job.options).table.to_pylist()
                record = {"rows": rows, "status": "ok", "seconds": round(time.monotonic() - start, 3)}
            except Exception as error:
                record = failure(error, start, job.debug)
        yield sample, record


def draw(out: Path, experiment: str, table: pa.Table, first_layer: int = 0) -> list[Path]:
    """The figures of a look, over all samples and for every task, as PNG and PDF under figures/."""
    if not table.num_rows:
        return []
    tasks = [t for t in pc.unique(table["task"]).to_pylist() if t]
    parts = {"": table}
    if len(tasks) > 1:
        parts |= {f"_{task}": table.filter(pc.equal(table["task"], task)) for task in tasks}
    made: list[Path] = []
    with writing(out / "figures"):
        for suffix, part in parts.items():
            for name, figure in EXPERIMENTS[experiment].draw(part, first_layer).items():
                made += plots.save(figure, out / "figures" / (name + file_name(suffix)))
    return made
