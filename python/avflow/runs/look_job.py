"""`avflow look`: what a run pays attention to and would say, for every sample."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from .. import checks, models
from ..errors import InputError
from ..experiments.answer_lens import SCHEMA as LENS
from ..experiments.answer_lens import answer_lens
from ..experiments.attention_share import SCHEMA as SHARE
from ..experiments.attention_share import attention_share
from ..experiments.lens_shift import SCHEMA as SHIFT
from ..experiments.patch import SCHEMA as PATCH
from ..experiments.patch import patch
from ..experiments.patch_sites import as_sites
from ..experiments.pathways import SCHEMA as PATHWAYS
from ..experiments.pathways import pathways
from ..experiments.sinks import SCHEMA as SINKS
from ..experiments.sinks import sinks
from ..experiments.sweep_plan import SweepRequest
from ..experiments.sweep_text import SCHEMA as TEXT
from ..experiments.sweep_text import sweep_text
from ..experiments.token_lens import SCHEMA as TOKENS
from ..experiments.token_lens import token_lens
from ..knockouts.presets import as_knockouts
from ..models.base import Model
from ..models.fingerprint import checkpoint_fingerprint
from ..prompts.prompt import Prompt
from ..results.results import Results
from .job import Record, RunJob, Tick
from .look_shift import lens_shift
from .source import absolute_model
from .told import told


@dataclass(frozen=True)
class Experiment:
    """run: (model, prompt, **options) -> Results of `schema`."""

    schema: pa.Schema
    run: Callable[..., Results]


EXPERIMENTS = {
    "share": Experiment(SHARE, attention_share),
    "lens": Experiment(LENS, answer_lens),
    "tokens": Experiment(TOKENS, token_lens),
    "shift": Experiment(SHIFT, lens_shift),
    "sinks": Experiment(SINKS, sinks),
    "pathways": Experiment(PATHWAYS, pathways),
    "patch": Experiment(PATCH, patch),
    "text": Experiment(TEXT, sweep_text),
}


class _PromptsReached(Exception):
    """All that an experiment does before its first prompt is done."""


def _no_prompts() -> Iterator[Prompt]:
    raise _PromptsReached
    yield  # makes it a generator: raised when the first prompt is asked for


@dataclass
class LookJob(RunJob):
    """What to look at: one of EXPERIMENTS. `options`: its keyword arguments; they stand in config.yaml.

    `other_model`: of a lens shift, the model that its option `other` names, once it is loaded.
    """

    experiment: str
    options: dict[str, Any] = field(default_factory=dict)
    other_model: Model | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.check_counts()
        checks.choice("experiment", self.experiment, EXPERIMENTS)
        if not isinstance(self.options, dict):
            raise InputError(f"options = {checks.shown(self.options)}: pass a dict of the experiment's arguments")
        if "labels" in self.options:
            raise InputError(f"options of {self.experiment!r} hold labels: pass labels= to the job itself")
        if self.experiment == "shift" and "other" in self.options:
            self.options = {**self.options, "other": absolute_model(checks.expanded("other", self.options["other"]))}
        try:
            inspect.signature(EXPERIMENTS[self.experiment].run).bind("model", "prompts", **self.options)
        except TypeError as error:
            raise InputError(f"options of {self.experiment!r}: {error}") from None
        for name, value in self.own_config().items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise InputError(
                    f"options of {self.experiment!r}: {name} = {checks.shown(value)} cannot stand in a run's "
                    "config.yaml: give texts, numbers and lists of them, or call "
                    f"avflow.{EXPERIMENTS[self.experiment].run.__name__}"
                ) from None

    @property
    def schema(self) -> pa.Schema:
        return EXPERIMENTS[self.experiment].schema

    def own_config(self) -> dict[str, Any]:
        config = {name: str(v) if isinstance(v, dict) else v for name, v in self.options.items()}
        if self.experiment == "shift" and (found := checkpoint_fingerprint(self.options["other"])):
            config["other_fingerprint"] = found
        return config

    @property
    def named_groups(self) -> list[str]:
        if self.experiment == "sinks":
            return [self.options["among"]] if isinstance(self.options.get("among"), str) else []
        if self.experiment in ("tokens", "shift"):
            default = inspect.signature(EXPERIMENTS[self.experiment].run).parameters["tokens"].default
            cut = self.options.get("knockouts")
            sides = [] if cut is None else [side for path in as_knockouts(cut) for side in path.groups]
            return [self.options.get("tokens", default), *sides]
        if self.experiment == "patch":
            default = inspect.signature(patch).parameters["sites"].default
            return [site.group for site in as_sites(self.options.get("sites", default))]
        paths: Any = ()
        if self.experiment == "text":
            paths = as_knockouts(self.options.get("knockouts", SweepRequest.knockouts))
        elif self.options.get("knockouts") is not None:  # what is cut during a share or a lens
            paths = as_knockouts(self.options["knockouts"])
        elif self.experiment == "pathways":
            paths = as_knockouts(list(self.options.get("keep", ())) or "av_video")
        return [side for path in paths for side in path.groups]

    def check(self, model: Model) -> None:
        """The experiment itself checks its options, before it asks for the first prompt."""
        if self.experiment == "shift" and self.other_model is None:
            self.other_model = models.load(self.options["other"], device=self.device, dtype=self.dtype)
        with suppress(_PromptsReached):
            self._run(model, _no_prompts())

    def __getstate__(self) -> dict[str, Any]:
        """A worker loads the other model for itself, as it does the first."""
        return {**vars(self), "other_model": None}

    def _run(self, model: Model, prompts: Prompt | Iterator[Prompt]) -> Results:
        there: dict[str, Any] = self.options
        if self.experiment == "shift":
            there = {**there, "other": self.other_model, "prepare": self.prompt_of, "check": self.compare}
        return EXPERIMENTS[self.experiment].run(model, prompts, **there)

    def limit_memory(self, bytes_free: int) -> None:
        if self.experiment in ("text", "patch"):  # the others keep no more than a layer
            self.options = {"memory": bytes_free, **self.options}

    def record(self, model: Model, prompt: Prompt, tick: Tick | None = None) -> Record:
        found = self._run(model, prompt)
        if not all(info.get("selected", True) for info in found.meta.get("prompts", ())):
            answered = "wrong" if self.options.get("select", "correct") == "correct" else "correct"
            return {"status": "selected_out", "reason": f"the clean answer is {answered}"}
        shown = {"prompt": told(prompt, model)} if self.experiment == "text" else {}
        return {"rows": found.table.to_pylist(), "status": "ok", **shown}
