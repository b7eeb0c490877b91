"""`avflow sweep`: every path cut at every layer, for every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..experiments.sweep import SweepRows, estimate, sweep_prompts
from ..experiments.sweep_plan import SweepRequest
from ..models.base import Model
from ..prompts.prompt import Prompt
from ..results.table import SCHEMA
from ..walk.memory import check_budget, parse_bytes
from .job import Record, RunJob, Tick
from .told import told


@dataclass
class SweepJob(SweepRequest, RunJob):
    """A SweepRequest over a file of samples: model, samples, then what SweepRequest takes, then keywords of RunJob.

    All of it decides the numbers and stands in config.yaml, but for `memory` (of one walk), device and workers.
    """

    def __post_init__(self) -> None:
        self.check_counts()
        SweepRequest.__post_init__(self)

    @property
    def experiment(self) -> str:
        return "sweep"

    @property
    def schema(self) -> pa.Schema:
        return SCHEMA

    def own_config(self) -> dict[str, Any]:
        return {
            "knockouts": [k.name for k in self.knockouts],
            "window": self.window,
            "style": self.style,
            "layers": "all" if self.layers is None else self.layers,
            "select": self.select,
            "semantics": self.semantics,
            **self.unusual(),
        }

    @property
    def named_groups(self) -> list[str]:
        return [side for knockout in self.knockouts for side in knockout.groups]

    def check(self, model: Model) -> None:
        self.windows(model)
        check_budget(model, None if self.memory is None else parse_bytes(self.memory))

    def limit_memory(self, bytes_free: int) -> None:
        self.memory = bytes_free if self.memory is None else self.memory

    def record(self, model: Model, prompt: Prompt, tick: Tick | None = None) -> Record:
        record = _record_of(sweep_prompts(model, [prompt], self, tick)[0], self.select)
        return {**record, "prompt": told(prompt, model)} if record["status"] == "ok" else record

    def cost(self, model: Model, prompt: Prompt) -> dict[str, Any]:
        return estimate(model, prompt, self)


def _record_of(part: SweepRows, select: str) -> Record:
    info = part.info
    record = {name: info.get(name) for name in ("p_clean", "correct", "seconds")}
    if info.get("media_check"):
        record["media_check"] = info["media_check"]
    if info.get("selected", bool(part.rows)):
        return {"rows": part.rows, "status": "ok", **record}
    answered = "right" if record["correct"] else "wrong"
    return {"status": "selected_out", "reason": f"the clean answer is {answered}, select is {select!r}", **record}
