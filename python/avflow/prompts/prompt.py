"""A prompt: what the model reads, what every token of it is, and the answer whose probability is watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from avflow_ext.tokens import Integers

from .. import checks
from ..errors import InputError

if TYPE_CHECKING:
    from .sample import Sample


def _int_list(where: str, values: Any) -> list[int]:
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    try:
        values = list(values)
        out = [int(v) for v in values]
        exact = all(int(v) == v and not isinstance(v, bool) and abs(int(v)) < 2**63 for v in values)
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise InputError(f"{where} must be integers, got {checks.shown(values)}")
    return out


def _same(one: Any, other: Any) -> bool:
    """Equality of values that may be, or hold, tensors: of these dtype, device and every element count."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        return both and (one.dtype, one.device) == (other.dtype, other.device) and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and type(one) is type(other):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _tensor(where: str, values: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"{where} must be integers, got {checks.shown(values)}") from None


@dataclass(init=False, eq=False)
class Prompt:
    """N tokens with their groups, and the answer.

    Args:
        inputs_embeds: [N, hidden], or input_ids: int [N]; one of the two. With `model_inputs` the model embeds itself.
        groups: N group names. The last token, and no other, is "last": it predicts the answer's first token.
        answer_ids: token ids of the answer; several are teacher-forced, their log-probabilities add up. None: nobody
            knows it; such a prompt is for `avflow.evict`, `avflow.generate` and a label-free plan, which ask for none.
        position_ids: int [3, N] (temporal, height, width), [N], or None for what the model's own forward gives.
        items: N ints, -1 for none: frame, audio segment or option number. Default: none.
        id, task: names that stand in the result table.
        answer: the text shown in the result table; default: the answer's ids.
        option_ids: first token id of every option letter. With it a prompt counts as answered correctly where the
            answer's id has the highest logit among them; without it, where every answer token is the most probable one.
        model_inputs: keyword tensors for hf.forward, as `model.prepare` sets them.
        sample: where the prompt comes from.
        times: N numbers, seconds from the begin of the token's medium, None where it has none; or None: of no token.
            `avflow.Step(per="second")` goes by them. Sound in a file of its own begins with the video.
        media: what `model.prepare` found out about the sample's media; empty where it did not make the prompt.

    Two prompts are equal where all of that is, but for `media`.

    Raises:
        InputError: lengths that differ, embeddings that are not finite, times that are no numbers from 0 on, no single
            "last" at the end, no answer.
    """

    inputs_embeds: torch.Tensor | None
    position_ids: torch.Tensor | None
    groups: list[str]
    items: list[int]
    answer_ids: list[int]
    id: str = ""
    task: str = ""
    input_ids: torch.Tensor | None = None
    answer: str = ""
    option_ids: list[int] | None = None
    model_inputs: dict[str, Any] | None = field(default=None, repr=False)
    sample: Sample | None = field(default=None, repr=False)
    media: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    times: list[float | None] | None = field(default=None, repr=False)

    def __init__(
        self,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        groups: Sequence[str] = (),
        items: Integers | None = None,
        answer_ids: Integers | None = (),
        id: str = "",
        task: str = "",
        input_ids: Integers | None = None,
        answer: str = "",
        option_ids: Integers | None = None,
        model_inputs: dict[str, Any] | None = None,
        sample: Sample | None = None,
        media: Mapping[str, Any] | None = None,
        times: Sequence[float | None] | None = None,
    ) -> None:
        number = isinstance(id, int) and not isinstance(id, bool)
        self.id = str(checks.integer("a prompt's id", id, low=-(2**63))) if number else checks.text("a prompt's id", id)
        self.task, self.answer = (self._text(name, value) for name, value in (("task", task), ("answer", answer)))
        if model_inputs is not None and not isinstance(model_inputs, Mapping):
            raise self._say(
                f"model_inputs is {checks.shown(model_inputs)}: pass keyword tensors of hf.forward, or None"
            )
        if media is not None and not isinstance(media, Mapping):
            raise self._say(f"media is {checks.shown(media)}: pass a dict of facts about its media, or None")
        self.model_inputs, self.sample, self.media = model_inputs, sample, dict(media or {})
        if isinstance(groups, (str, bytes)) or not isinstance(groups, Sequence):
            raise self._say(f"groups is {checks.shown(groups)}: pass a list of group names, one per token")
        n = self._put_tokens(inputs_embeds, input_ids)
        if n == 0:
            raise self._say("it has no tokens")
        if len(groups) != n:
            raise self._say(f"{n} tokens, but groups has {len(groups)} names: pass one per token")
        self.position_ids = self._positions(position_ids, n)
        self._put_labels(groups, items)
        self.times = self._times(times, n)
        self._put_answer(answer_ids, option_ids)

    def __len__(self) -> int:
        return len(self.groups)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prompt):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.compare)

    def _say(self, text: str) -> InputError:
        return InputError(f"prompt {self.id!r}: {text}")

    def _text(self, name: str, value: Any) -> str:
        return checks.text(f"prompt {self.id!r}: {name}", value)

    def _put_tokens(self, embeds: torch.Tensor | None, input_ids: Integers | None) -> int:
        """N."""
        if (embeds is None) == (input_ids is None):
            raise self._say("pass inputs_embeds [N, hidden] or input_ids [N], one of the two")
        self.inputs_embeds, self.input_ids = embeds, None
        if input_ids is not None:
            ids = _tensor(f"prompt {self.id!r}: input_ids", input_ids)
            if ids.dim() == 2 and ids.shape[0] == 1:
                ids = ids[0]
            if ids.dim() != 1 or ids.dtype.is_floating_point or ids.dtype == torch.bool:
                raise self._say(f"input_ids must be integers [N], got {ids.dtype} {tuple(ids.shape)}")
            self.input_ids = ids.long()
            return ids.shape[0]
        if not isinstance(embeds, torch.Tensor) or embeds.dim() != 2 or not embeds.dtype.is_floating_point:
            shown = f"{embeds.dtype} {tuple(embeds.shape)}" if isinstance(embeds, torch.Tensor) else type(embeds)
            raise self._say(f"inputs_embeds must be a floating tensor [N, hidden], got {shown}")
        bad = ~torch.isfinite(embeds).all(-1)
        if bool(bad.any()):
            raise self._say(f"inputs_embeds holds NaN or infinity, first at token {int(bad.nonzero()[0])}")
        return embeds.shape[0]

    def _positions(self, given: torch.Tensor | None, n: int) -> torch.Tensor | None:
        if given is None:
            return None
        ids = _tensor(f"prompt {self.id!r}: position_ids", given)
        if ids.dim() == 3 and ids.shape[1] == 1:
            ids = ids[:, 0]  # [3, 1, N] as a model gives them
        if tuple(ids.shape) not in ((n,), (3, n)) or ids.dtype.is_floating_point:
            raise self._say(f"position_ids must be integers [{n}] or [3, {n}], got {ids.dtype} {tuple(ids.shape)}")
        return ids.long()

    def _put_labels(self, groups: Sequence[str], items: Integers | None) -> None:
        n = len(groups)
        self.groups = [self._text("a group", g) for g in groups]
        self.items = [-1] * n if items is None else _int_list(f"prompt {self.id!r}: items", items)
        if len(self.items) != n:
            raise self._say(f"{n} tokens, but items has {len(self.items)} entries: pass one per token, -1 for none")
        if min(self.items) < -1:
            raise self._say(f"items holds {min(self.items)}: items count from 0, -1 is none")
        last = [i for i, g in enumerate(self.groups) if g == "last"]
        if last != [n - 1]:
            raise self._say(f'the group "last" must be the final token ({n - 1}) and no other, it is at {last}')

    def _times(self, times: Any, n: int) -> list[float | None] | None:
        given = None if times is None else checks.members(times, n)
        if times is not None and (given is None or len(given) != n):
            raise self._say(f"times is {checks.shown(times)}: pass {n} numbers of seconds, None for tokens without")
        name = f"prompt {self.id!r}: a token's time ="
        return None if given is None else [None if t is None else checks.number(name, t, low=0.0) for t in given]

    def _put_answer(self, answer_ids: Integers | None, option_ids: Integers | None) -> None:
        if answer_ids is None:
            if option_ids is not None:
                raise self._say("option_ids without an answer: leave them out, or pass answer_ids too")
            self.answer_ids, self.option_ids = [], None
            return
        self.answer_ids, self.option_ids = _int_list(f"prompt {self.id!r}: answer_ids", answer_ids), None
        if not self.answer_ids:
            raise self._say("answer_ids is empty: pass the token ids of the answer, or None where nobody knows it")
        if min(self.answer_ids) < 0:
            raise self._say(f"answer_ids holds {min(self.answer_ids)}: token ids count from 0")
        if option_ids is not None:
            self.option_ids = _int_list(f"prompt {self.id!r}: option_ids", option_ids)
            if self.answer_ids[0] not in self.option_ids:
                raise self._say(f"the answer's token {self.answer_ids[0]} is not among option_ids {self.option_ids}")

    def check_answered(self) -> None:
        """Raises InputError for a prompt of answer_ids=None."""
        if not self.answer_ids:
            raise self._say("it has no answer (answer_ids=None), but its answer is asked for here: pass its token ids")

    def check_vocab(self, vocab: int) -> None:
        """Raises InputError where an answer, option or input id lies outside 0 .. vocab - 1."""
        for where, ids in (("answer_ids", self.answer_ids), ("option_ids", self.option_ids or [])):
            bad = [i for i in ids if not 0 <= i < vocab]
            if bad:
                raise self._say(f"{where} holds {bad[0]}, the model's vocabulary has {vocab} tokens")
        if self.input_ids is not None and not 0 <= int(self.input_ids.min()) <= int(self.input_ids.max()) < vocab:
            span = f"{int(self.input_ids.min())} .. {int(self.input_ids.max())}"
            raise self._say(f"input_ids reach {span}, the model's vocabulary has {vocab} tokens")


def with_answer_of(prompt: Prompt, asked: Prompt) -> Prompt:
    """The prompt with another one's answer and options: what it says of the question that `asked` asks."""
    return replace(prompt, answer_ids=asked.answer_ids, option_ids=asked.option_ids, answer=asked.answer)
