"""What the loop and its workers ask of a job: how to load, check, prepare and measure. A job is pickled to workers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import checks
from ..data.ahead import MOST_THREADS
from ..data.prepare import reason
from ..errors import InputError
from ..models.base import Model
from ..models.proof import checking, compared, figures, parse_check
from ..prompts.prompt import Prompt
from ..prompts.sample import Sample
from .records import media_state
from .source import Source

Record = dict[str, Any]  # of a sample, as RunFolder.add takes it
Tick = Callable[[float], None]  # called with the share of a sample's work that is newly done


@dataclass(frozen=True)
class Begun:
    """When work on a sample was begun (seconds, monotonic), and its media then, as `records.media_state` gives them."""

    at: float
    media: dict[str, list[Any]]


@dataclass
class RunJob(Source, ABC):
    """One experiment over a file of samples.

    `workers`: processes, or Ray actors where `ray` is a cluster's address ("local" starts one); None: one process, or
    all slots of the cluster. `decode_threads`: where one process measures, the media of so many samples are read while
    another one is measured. `restart`: a run that is in the folder is set aside, and this one begins anew. `debug`: a
    sample's exception ends the run. `compare`: as `check=` of `avflow.sweep`; each process counts its own samples.
    """

    _: KW_ONLY
    workers: int | None = None
    ray: str | None = None
    restart: bool = False
    decode_threads: int = 1
    debug: bool = False
    compare: str | int | None = None

    if TYPE_CHECKING:  # a dataclass below that has it as a field would take this property for the field's default

        @property
        def experiment(self) -> str:
            """What config.yaml names: "sweep", "plan", or what `avflow look` looks at. Every job has it."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Of the rows."""

    @abstractmethod
    def record(self, model: Model, prompt: Prompt, tick: Tick | None = None) -> Record:
        """Measures one prompt: rows, status, and what else is recorded. Whatever it raises is the sample's failure."""

    @abstractmethod
    def own_config(self) -> dict[str, Any]:
        """What the experiment adds to config.yaml: the values that decide the numbers."""

    @property
    def doing(self) -> str:
        """The word before the progress bar."""
        return self.experiment

    def config(self) -> dict[str, Any]:
        """The values of config.yaml."""
        own = {"experiment": self.experiment, **self.own_config()}
        return {**self.source_config(), **own, "dtype": self.dtype, **self.media}

    def check(self, model: Model) -> None:
        """Raises InputError for what this model lacks, such as layers: once, not for every sample."""

    def begin(self, model: Model) -> None:
        """What a model needs before its first sample: the groups of labels; then `check`."""
        self.declare(model.groups)
        self.check(model)

    def limit_memory(self, bytes_free: int) -> None:
        """A worker's share of what is free, taken where the job has no budget of its own."""

    def cost(self, model: Model, prompt: Prompt) -> dict[str, Any]:
        """What measuring the prompt would cost, as walk.cost.walks_cost gives it; runs no layer."""
        raise InputError(f"no estimate for {self.experiment}: ask for one of a sweep or a plan")

    def prepare(self, model: Model, sample: Sample) -> tuple[Prompt | Record, Begun]:
        """The sample's prompt, or the record that says why there is none; and what there was before."""
        begun = Begun(time.monotonic(), media_state(sample.files))
        try:
            return self.prompt_of(model, sample), begun
        except Exception as error:
            return self.failure(error, begun), begun

    def measure(self, model: Model, prompt: Prompt | Record, begun: Begun, tick: Tick | None = None) -> Record:
        """The record of what `prepare` gave."""
        if isinstance(prompt, dict):
            return prompt
        before = compared(model)
        try:
            with checking(model, self.compare):
                found = self.record(model, prompt, tick)
        except Exception as error:
            return self.failure(error, begun)
        notes = {"notes": prompt.media["notes"]} if prompt.media.get("notes") else {}  # of what was done to its media
        check = figures(model)
        proof = {} if check is None else {"check": {**check, "compared": compared(model) - before}}
        return {"seconds": round(time.monotonic() - begun.at, 3), "media": begun.media, **notes, **found, **proof}

    def failure(self, error: Exception, begun: Begun) -> Record:
        """One sample in thousands that breaks a decoder must not end a night's run: its reason is kept, it goes on."""
        if self.debug:
            raise error
        return {"status": "failed", "reason": reason(error), "seconds": round(time.monotonic() - begun.at, 3)}

    def check_counts(self) -> None:
        """Raises InputError: a number of workers below 1, and whatever check_source refuses."""
        self.check_source()
        if self.compare is not None:
            self.compare = parse_check(self.compare)
        self.restart = checks.flag("restart", self.restart)
        if self.workers is not None:
            self.workers = checks.integer("workers", self.workers, low=1, mend="give a number of processes, 1 or more")
        mend = f"give a number of threads, 1 or more, at most {MOST_THREADS}"
        self.decode_threads = checks.integer("decode_threads", self.decode_threads, 1, MOST_THREADS, mend)
