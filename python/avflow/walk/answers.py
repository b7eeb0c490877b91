"""Runs the walks of a plan, and keeps what every stream answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import NumericError
from ..prompts.correct import is_correct, says_answer
from .capture import Captured
from .jobs import Columns, Eviction, Job
from .layout import Layout
from .opening import open_walk
from .packing import Walks
from .walk import Prediction, run_walk


@dataclass
class Answer:
    """What one stream predicts of the answer."""

    logp: list[float]  # per answer token
    top: list[int]
    option: bool
    kl: float = 0.0  # nats, where asked for: of the next token's distribution, from the clean run's
    entropy: float = 0.0  # nats, of the clean run's
    own: float = 0.0  # logp of the clean run's own first token, where asked for
    own_token: int = 0  # that token


def predicting(layout: Layout, columns: Sequence[Columns]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that predict answer tokens, int64 [P], and their (stream, answer token) as int64 [P, 2]."""
    prompt = np.where(layout.parent < 0, np.arange(len(layout.parent)), layout.parent)  # of each stream
    first = np.array([c.n_prompt - 1 for c in columns])[prompt]
    answer_token = layout.order - first[layout.stream]
    rows = np.flatnonzero(answer_token >= 0)
    return rows, np.stack([layout.stream[rows], answer_token[rows]], 1).astype(np.int64)


class Runner:
    """The answers of the clean runs, by prompt, and of every job."""

    def __init__(
        self,
        plan: Walks,
        batch: Sequence[Captured],
        tick: Callable[[float], None] | None = None,
        correct_by: str = "options",
        divergence: bool = False,
        own: bool = False,
    ) -> None:
        """correct_by: the rule of `prompts.correct`. divergence, own: as of `run_walk`."""
        self.plan, self.batch = plan, batch
        self.correct_by, self.divergence, self.own = correct_by, divergence, own
        self.on_layer = None if tick is None else lambda rows: tick(rows / plan.size["rows"])
        self.clean: list[Answer] = []  # per prompt
        self.cut: dict[Job | Eviction, Answer] = {}

    def run_walk(self, walk: int) -> None:
        """One of the plan's: its first layer is launched before the others are laid out."""
        plan = self.plan
        first = plan.opening(walk)
        begun = [] if first is None else [open_walk(plan.model, self.batch, first, plan.knockouts, plan.semantics)]
        self.run(plan.layouts[walk], begun)

    def run(self, layout: Layout, begun: list[torch.Tensor] | None = None) -> None:
        """begun: as of `walk.run_walk`."""
        plan = self.plan
        rows, which = predicting(layout, plan.columns)
        prompt = np.where(layout.parent[which[:, 0]] < 0, which[:, 0], layout.parent[which[:, 0]])
        targets = np.array([plan.prompts[p].answer_ids[t] for p, t in zip(prompt, which[:, 1], strict=True)], np.int64)
        args = (plan.model, self.batch, layout, plan.knockouts, rows, targets, plan.semantics)
        try:
            beside: dict[str, Any] = dict(divergence=self.divergence, own=self.own, begun=begun)
            predicted = run_walk(*args, on_layer=self.on_layer, **beside)
        except NumericError:
            run_walk(*args, find_nonfinite=True)  # the same walk once more: the error names the layer where it begins
            raise
        self._collect(layout, which, predicted)

    def _collect(self, layout: Layout, which: np.ndarray, predicted: Prediction) -> None:
        answers: list[Answer] = []
        columns = {name: column.tolist() for name, column in predicted.columns.items()}
        for row, (stream, token) in enumerate(which.tolist()):  # by stream, the clean ones first
            if stream == len(answers):
                answers.append(self._inherited(answers, int(layout.parent[stream]), stream))
            answer = answers[stream]
            answer.logp[token], answer.top[token] = columns["logp"][row], columns["top"][row]
            if token == 0:
                for name in ("option", "kl", "entropy", "own", "own_token"):
                    if name in columns:
                        setattr(answer, name, columns[name][row])
        self.clean = answers[: len(self.plan.prompts)]
        self.cut |= {job: answers[stream] for job, stream in layout.stream_of.items()}

    def _inherited(self, answers: list[Answer], parent: int, stream: int) -> Answer:
        """Tokens predicted by rows before a stream's first are predicted as in the clean run."""
        if parent < 0:
            n = len(self.plan.prompts[stream].answer_ids)
            return Answer([0.0] * n, [0] * n, False)
        base = answers[parent]
        return Answer(list(base.logp), list(base.top), base.option, own=base.own, own_token=base.own_token)

    def correct(self, prompt: int, job: Job | Eviction | None = None) -> bool:
        """Whether the prompt is answered correctly in a job's run, None: in the clean one."""
        p, answer = self.plan.prompts[prompt], self.clean[prompt] if job is None else self.cut[job]
        if self.correct_by == "vocabulary":
            return says_answer(p, answer.top, self.plan.model.text)
        return is_correct(p, answer.option, answer.top)

    def wanted(self, select: str) -> list[int]:
        """The prompts that a sweep of the "correct", the "wrong" or "all" takes."""
        prompts = range(len(self.plan.prompts))
        return [p for p in prompts if select == "all" or self.correct(p) == (select == "correct")]
