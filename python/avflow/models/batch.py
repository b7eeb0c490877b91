"""Several prompts as one left-padded batch: arguments of the model's forward and generate, every column labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from ..checks import shown
from ..errors import InputError
from ..uploads import upload

if TYPE_CHECKING:
    from ..prompts.prompt import Prompt

_SOUND = ("input_features", "feature_attention_mask")  # one row a sound, as long as the longest: padded on the right
PADDING = "template"  # the group of padding; no row sees it


@dataclass(frozen=True)
class Batch:
    """B prompts of at most N tokens, padded on the left, as one call of the model reads them.

    Attributes:
        model_inputs: keyword arguments of `model.hf` and `model.hf.generate`, on the model's device: input_ids and
            attention_mask int64 [B, N], media of all prompts one after the other.
        groups, items: [B][N], names and numbers of the columns, padding included; `avflow.evict` and `avflow.knockout`
            take the batch itself as `groups=`.
        prompts: the B prompts. times: [B][N], as of a Prompt; None where no prompt has any.
    """

    model_inputs: dict[str, Any] = field(repr=False)
    groups: list[list[str]] = field(repr=False)
    items: list[list[int]] = field(repr=False)
    prompts: tuple[Prompt, ...]
    times: list[list[float | None]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.prompts)


def batch_prompts(prompts: Sequence[Prompt], pad_id: int, device: torch.device) -> Batch:
    """The prompts in one batch. pad_id: the token that stands for padding.

    Raises:
        InputError: no prompt, one of embeddings or with position_ids of its own, options that differ between prompts.
    """
    if not prompts:
        raise InputError("a batch of no samples: pass at least one")
    for prompt in prompts:
        if prompt.model_inputs is None or prompt.position_ids is not None:
            raise InputError(
                f"prompt {prompt.id!r} was not made by model.prepare (it has embeddings or positions of its own): pad "
                "such prompts yourself, and pass groups= and items= with a row for each"
            )
    width = max(len(prompt) for prompt in prompts)
    gaps = [width - len(prompt) for prompt in prompts]
    inputs: dict[str, Any] = {}
    for name in dict.fromkeys(name for prompt in prompts for name in prompt.model_inputs or ()):
        having = _having(name, prompts)
        if isinstance(having[0][1], torch.Tensor):
            inputs[name] = upload(_one_tensor(name, having, len(prompts), width, pad_id), device)
        else:
            inputs[name] = _one_value(name, having)
    return Batch(
        model_inputs=inputs,
        groups=[[PADDING] * gap + list(prompt.groups) for gap, prompt in zip(gaps, prompts, strict=True)],
        items=[[-1] * gap + list(prompt.items) for gap, prompt in zip(gaps, prompts, strict=True)],
        prompts=tuple(prompts),
        times=_times(prompts, gaps),
    )


def _times(prompts: Sequence[Prompt], gaps: Sequence[int]) -> list[list[float | None]] | None:
    if all(prompt.times is None for prompt in prompts):
        return None
    rows: list[list[float | None]] = []
    for gap, prompt in zip(gaps, prompts, strict=True):
        rows.append([None] * (gap if prompt.times is not None else gap + len(prompt)))
        rows[-1] += prompt.times or []
    return rows


Having = list[tuple["Prompt", Any]]  # prompts with an argument, and its value; the others have none of its media


def _having(name: str, prompts: Sequence[Prompt]) -> Having:
    inputs = [(prompt, prompt.model_inputs or {}) for prompt in prompts]
    return [(prompt, own[name]) for prompt, own in inputs if name in own]


def _one_value(name: str, having: Having) -> Any:
    first, shared = having[0]
    for prompt, value in having:
        if value != shared:
            raise InputError(
                f"prompt {prompt.id!r} needs {name}={shown(value)}, prompt {first.id!r} {shown(shared)}: one forward "
                "takes one value, put them into batches of their own"
            )
    return shared


def _one_tensor(name: str, having: Having, count: int, width: int, pad_id: int) -> torch.Tensor:
    values = [value for _, value in having]
    if len(having) == count and all(v.shape == (1, len(p)) for p, v in having):  # one value a token
        fill = pad_id if name == "input_ids" else 0
        values = [pad(value, (width - value.shape[1], 0), value=fill) for value in values]
    elif name in _SOUND:
        longest = max(value.shape[-1] for value in values)
        values = [pad(value, (0, longest - value.shape[-1])) for value in values]
    for (prompt, _), value in zip(having, values, strict=True):
        if value.shape[1:] != values[0].shape[1:]:
            raise InputError(
                f"prompt {prompt.id!r} has {name} of shape {tuple(value.shape)}, prompt {having[0][0].id!r} "
                f"{tuple(values[0].shape)}: one forward takes one shape, put them into batches of their own"
            )
    return torch.cat(values)
