"""What the model says under every knockout: generated text, from the streams of one walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import MOST_TOKENS, integer
from ..data.prepare import PromptSource, as_prompts
from ..knockouts.amplification import refuse_amplified
from ..knockouts.knockout import Knockout, Semantics
from ..knockouts.sides import parts_of
from ..knockouts.windows import WindowStyle
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..prompts.prompt import Prompt
from ..results.results import Results
from ..results.schemas import SWEEP_TEXT as SCHEMA
from ..walk.capture import columns_of
from ..walk.jobs import Columns, Job, first_cut_row
from ..walk.texts import GreedyTexts
from .sweep_plan import SweepRequest, Window

__all__ = ["SCHEMA", "separate", "sweep_text"]


def sweep_text(
    model: Model,
    prompts: PromptSource,
    knockouts: Any = SweepRequest.knockouts,
    window: int | Sequence[int] = SweepRequest.window,
    style: WindowStyle = SweepRequest.style,
    layers: Any = SweepRequest.layers,
    max_new_tokens: int = 32,
    semantics: Semantics = SweepRequest.semantics,
    memory: int | str | None = SweepRequest.memory,
    check: str | int | None = None,
    labels: Any = None,
) -> Results:
    """The greedily generated answer under every knockout in every window, without reading the prompt anew for each.

    One walk reads the prompt for all of them and keeps its streams' keys and values (clean rows once); then all streams
    decode together, one row per stream and step. The same tokens as `avflow.knockout(...)` around `generate(do_sample=
    False)` without penalties: generated tokens belong to the group "answer".

    Args:
        prompts: as of `avflow.sweep`.
        knockouts, window, style, layers, semantics, memory: as of `avflow.sweep`. memory also holds the kept keys.
        check, labels: as of `avflow.sweep`.
        max_new_tokens: of every answer; it ends earlier with an end token of the model's generation_config.

    Returns:
        Results with a row per prompt, knockout and window: text_clean and text_knockout, their tokens, changed, and
        status: "ok", or why nothing is cut.

    Raises:
        InputError: layers, heads or groups that the model does not have, no prompts, two of one id, too little memory.
        NumericError: NaN or infinity in the run.
    """
    mend = "pass a number of tokens, 1 or more"
    max_new_tokens = integer("max_new_tokens =", max_new_tokens, low=1, high=MOST_TOKENS, mend=mend)
    request = SweepRequest(knockouts, window=window, style=style, layers=layers, semantics=semantics, memory=memory)
    check_model(model)
    given = as_prompts(model, prompts, labels=labels)
    refuse_amplified(request.knockouts, "avflow.sweep_text")
    windows = request.windows(model)
    rows: list[tuple] = []
    with checking(model, check):
        for prompt in given:
            request.warn_of_left(model, prompt)
            texts = _Texts(model, prompt, request, windows, max_new_tokens)
            for knockout in request.knockouts:
                for one in windows:
                    rows.append(texts.row(knockout, one))
    return Results.from_tuples(
        "sweep_text", rows, **request.meta(model), max_new_tokens=max_new_tokens, check=figures(model)
    )


def separate(
    columns: Columns, model: Model, knockouts: Sequence[Knockout], windows: Sequence[Window]
) -> tuple[dict[tuple[str, frozenset[int]], Job], list[Knockout]]:
    """A job for every knockout and set of layers that cuts something, and the knockout of each job, by its number.

    columns: their groups as `sides.Parts` of these knockouts numbers them. Jobs of different numbers share no rows:
    below its first layer, each is the clean run.
    """
    jobs: dict[tuple[str, frozenset[int]], Job] = {}
    owners: list[Knockout] = []
    parts = parts_of(model.groups, knockouts)
    for knockout in knockouts:
        start = first_cut_row(knockout.cuts(parts), columns)
        for inside in dict.fromkeys(one.layers for one in windows if one.layers):
            if start is not None:
                jobs[knockout.name, inside] = Job.of(0, len(owners), start, inside)
                owners.append(knockout)
    return jobs, owners


class _Texts:
    """One prompt's answers: the clean one, and one for every job."""

    def __init__(
        self, model: Model, prompt: Prompt, request: SweepRequest, windows: Sequence[Window], count: int
    ) -> None:
        self.model, self.prompt = model, prompt
        # Answer tokens are rows too: a knockout of theirs alone begins behind the prompt.
        own = columns_of(model, prompt)
        n = own.n_prompt
        item = np.concatenate([own.item[:n], np.full(count, -1)]).astype(np.int32)
        group = np.concatenate([own.group[:n], np.full(count, model.groups["answer"])]).astype(np.int32)
        longer = Columns(parts_of(model.groups, request.knockouts).columns(group, item), item, n)
        self.jobs, owners = separate(longer, model, request.knockouts, windows)
        jobs, memory = list(self.jobs.values()), request.memory_bytes
        texts = GreedyTexts(model, prompt, jobs, owners, count, request.semantics, memory)
        self.clean, self.answers = texts.clean, texts.answers

    def row(self, knockout: Knockout, window: Window) -> tuple:
        inside = window.layers
        job = self.jobs.get((knockout.name, inside))
        cut = self.clean if job is None else self.answers[job]
        status = "ok" if job else "no edge to cut" if inside else "no layer in the window"
        return (
            self.prompt.id,
            self.prompt.task,
            knockout.name,
            window.centre,
            window.width,
            min(inside, default=None),
            max(inside, default=None),
            self.model.text(self.clean),
            self.model.text(cut),
            self.clean,
            cut,
            cut != self.clean,
            status,
        )
