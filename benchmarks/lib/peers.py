"""What avflow is measured against, end to end: transformers' own forward, clean, under a dense mask, or indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

import avflow

Hook = Callable[[torch.nn.Module, tuple, dict[str, Any]], tuple[tuple, dict[str, Any]]]


@torch.no_grad()
def clean_forward(model: avflow.Model, prompt: avflow.Prompt, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [vocab] of the last row, by the transformers decoder; lm_head runs on that row only.

    mask: bool [1, 1, N, N], for all layers; None is causal.
    """
    masks = None if mask is None else {"full_attention": mask}
    out = model.text_model(inputs_embeds=prompt.inputs_embeds[None], attention_mask=masks, use_cache=False)
    return model.lm_head(out.last_hidden_state[:, -1:])[0, 0]


def knockout_mask(prompt: avflow.Prompt, device: torch.device | str = "cpu") -> torch.Tensor:
    """bool [1, 1, N, N] for video->question, made on the device: two of them at 32k tokens are 2 GiB.

    A peer that masks by window would build a second one for the other layers.
    """
    rows = torch.tensor([g.startswith(("question", "option")) for g in prompt.groups], device=device)
    keys = torch.tensor([g == "video" for g in prompt.groups], device=device)
    return _causal_without(rows, keys)


def _causal_without(rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """bool [1, 1, N, N]: causal, without the edges from `keys` to `rows`, both bool [N]."""
    n = len(rows)
    open_ = torch.ones(n, n, dtype=torch.bool, device=rows.device).tril_()
    open_ &= ~(rows[:, None] & keys[None, :])
    return open_[None, None]


@contextmanager
def _hooked(pairs: Sequence[tuple[torch.nn.Module, Hook]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def media_masked(model: avflow.Model, media: torch.Tensor, after: int) -> Iterator[None]:
    """Hides the media (bool [N]) from all other rows in the layers above `after`, by one N x N mask."""
    mask = _causal_without(~media, media)

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": mask}

    with _hooked([(layer, hook) for layer in model.layers[after + 1 :]]):
        yield


@contextmanager
def rows_indexed(model: avflow.Model, groups: Sequence[str], schedule: Mapping[str, int]) -> Iterator[None]:
    """Drops each group's rows behind its last layer, by plain torch.

    groups: one name per token. schedule: {group: last layer that sees it}.
    """
    left = torch.arange(len(groups))  # positions of the rows that are left
    pairs: list[tuple[torch.nn.Module, Hook]] = []
    kept = None  # the same on the device, once something has left
    for index, layer in enumerate(model.layers):
        gone = {group for group, after in schedule.items() if after == index - 1}
        among = None  # rows of the layer's input that stay
        if gone:
            among = torch.tensor([groups[at] not in gone for at in left.tolist()]).nonzero()[:, 0]
            left = left[among]
            among, kept = among.to(model.device), left.to(model.device)
        if kept is not None:
            pairs.append((layer, _index_hook(among, kept)))
    with _hooked(pairs):
        yield


def _index_hook(among: torch.Tensor | None, kept: torch.Tensor) -> Hook:
    def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if among is not None:
            args = (args[0][:, among], *args[1:])
        cos, sin = kwargs["position_embeddings"]  # of all positions: computed before the first layer
        kwargs = {**kwargs, "position_embeddings": (cos[:, kept], sin[:, kept])}
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"][:, kept]
        return args, kwargs

    return hook
