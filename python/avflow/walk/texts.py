"""One prompt's greedily generated answers: the clean one, and one for every job, from the streams of a few walks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from avflow_ext import Cut

from ..errors import InputError
from ..knockouts.knockout import Knockout, Semantics
from ..knockouts.sides import Parts, parts_of
from ..models.base import Model
from ..prompts.prompt import Prompt
from .capture import Captured, capture
from .decode import StreamKeys, decode
from .jobs import Columns, Eviction, Job
from .layout import build_layout, split_jobs
from .memory import available_bytes, fixed_bytes, row_bytes
from .proof import is_due, prove_text
from .walk import run_walk

COMPARED = 32  # generated tokens, at most, that are compared with the model's own forward


class GreedyTexts:
    """Token ids of up to `count` tokens each, an end token included.

    Attributes:
        clean: without a knockout or eviction. answers: {job: ids}.

    Args:
        jobs: of this one prompt (number 0), no two of which share rows: knockouts of different numbers, or evictions of
            one step. owners: the knockout of each knockout's job, by its number. memory: bytes; None: what is free.

    Raises:
        InputError: too little memory. NumericError: NaN or infinity in the run.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        jobs: Sequence[Job | Eviction],
        owners: Sequence[Knockout],
        count: int,
        semantics: Semantics = "renormalize",
        memory: int | None = None,
    ) -> None:
        self.model, self.prompt = model, prompt
        n = len(prompt)
        captured = _prompt_alone(capture(model, prompt), n)
        self.clean: list[int] = []
        self.answers: dict[Job | Eviction, list[int]] = {}
        budget = available_bytes(model.device) if memory is None else memory
        e = torch.finfo(model.dtype).bits // 8
        kept = 2 * e * model.n_kv_heads * model.head_dim * model.n_layers  # bytes of a row's keys and values
        most = (budget - fixed_bytes(model, n)) // (row_bytes(model) + kept)
        if memory is not None and most < 2 * n:
            need = fixed_bytes(model, n) + 2 * n * (row_bytes(model) + kept)
            raise InputError(f"memory = {budget} bytes is too little for prompt {prompt.id!r}: pass {need} or more")
        groups = [captured.columns.group]
        for part in split_jobs([n + count], list(jobs), max(1, most), groups):
            self._run(captured, part, owners, count, semantics)

    def _run(
        self,
        captured: Captured,
        jobs: Sequence[Job | Eviction],
        owners: Sequence[Knockout],
        count: int,
        semantics: Semantics,
    ) -> None:
        model = self.model
        layout = build_layout([len(captured)], jobs, model.n_layers, [captured.columns.group])
        parts = parts_of(model.groups, owners)
        cuts = [_cuts(parts, active, owners) for active in layout.active]
        group = parts.columns(captured.columns.group, captured.columns.item)
        held = StreamKeys(model, captured, group, layout, cuts, max(count - 1, 1))
        rows = np.flatnonzero(layout.order == len(captured) - 1)  # the last token of every stream that has it
        targets = np.full(len(rows), self.prompt.answer_ids[0])
        predicted = run_walk(model, [captured], layout, owners, rows, targets, semantics, on_keys=held.hold)
        tops: dict[int, int] = dict(zip(layout.stream[rows].tolist(), predicted.top.tolist(), strict=True))
        first = [tops.get(stream, tops[0]) for stream in range(len(layout.parent))]
        seen: list[torch.Tensor] = []  # logits [vocab] of the clean run, token by token after the first
        due = is_due(model, captured, "text")

        def see(logits: torch.Tensor) -> None:
            if len(seen) < COMPARED:
                seen.append(logits[0].float())

        made = decode(model, captured, held, first, count, semantics, see if due else None)
        self.clean = made[0]
        if after := seen[: len(made[0]) - 1]:  # other streams may go on longer
            prove_text(model, captured, made[0], torch.stack(after))
        self.answers |= {job: made[stream] for job, stream in layout.stream_of.items()}


def _cuts(parts: Parts, active: Mapping[int, tuple[int, ...]], owners: Sequence[Knockout]) -> list[Cut]:
    return [c for k, streams in active.items() for c in owners[k].cuts(parts, streams)]


def _prompt_alone(captured: Captured, n: int) -> Captured:
    """Without the answer tokens that a sweep would teacher-force."""
    columns = Columns(captured.columns.group[:n], captured.columns.item[:n], n)
    positions = None if captured.positions is None else captured.positions[..., :n]
    tables = (captured.cos[..., :n, :], captured.sin[..., :n, :])
    nth, deep = captured.nth, captured.deep
    return Captured(
        captured.prompt, columns, captured.hidden[:, :n], *tables, positions, captured.after, nth, deep=deep
    )
