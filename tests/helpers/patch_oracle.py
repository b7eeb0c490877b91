"""Activation patching as it is defined: forward hooks on the plain transformers model, one forward a cell."""

from __future__ import annotations

import contextlib

import oracle
import torch

from avflow.models.compat import find_text_model


def _places(hf) -> dict[str, list]:
    """By part, its module in every layer, and whether its input is meant: what the heads give goes into o_proj."""
    layers = find_text_model(hf).layers
    return {
        "residual": [(layer, False) for layer in layers],
        "attention": [(layer.self_attn.o_proj, True) for layer in layers],
        "mlp": [(layer.mlp, False) for layer in layers],
    }


@contextlib.contextmanager
def hooked(hf, part: str, layers, change):
    """change(layer, states [N, width]) -> states, in these layers."""
    handles = []
    for number in layers:
        module, is_input = _places(hf)[part][number]

        def before(_, args, number=number):
            return (change(number, args[0][0])[None], *args[1:])

        def after(_, args, out, number=number):
            first = out if isinstance(out, torch.Tensor) else out[0]
            new = change(number, first[0])[None]
            return new if isinstance(out, torch.Tensor) else (new, *out[1:])

        hook = module.register_forward_pre_hook(before) if is_input else module.register_forward_hook(after)
        handles.append(hook)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def states(hf, prompt, part: str, noise=None) -> dict[int, torch.Tensor]:
    """The part's states [N, width] in every layer of a plain run."""
    found: dict[int, torch.Tensor] = {}

    def keep(layer, seen):
        found[layer] = seen.clone()
        return seen

    with embedded(hf, noise), hooked(hf, part, range(len(find_text_model(hf).layers)), keep):
        oracle.answer_logp(hf, prompt)
    return found


@contextlib.contextmanager
def embedded(hf, noise):
    """noise [N, D], which is added to what goes into the first layer; None: nothing is."""
    if noise is None:
        yield
        return

    def before(_, args, kwargs):
        return (args[0] + noise, *args[1:]), kwargs

    handle = find_text_model(hf).layers[0].register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def tokens(prompt, group: str, items=None) -> torch.Tensor:
    groups = [*prompt.groups, *["answer"] * (len(prompt.answer_ids) - 1)]
    numbers = [*prompt.items, *[-1] * (len(prompt.answer_ids) - 1)]
    named = oracle.names(group)
    pairs = zip(groups, numbers, strict=True)
    return torch.tensor([i for i, (g, n) in enumerate(pairs) if g in named and (items is None or n in items)])


def patched(hf, prompt, part, layers, at, new, heads=None, noise=None) -> tuple[float, int]:
    """Log-probability of the answer, and the most probable token, with new(layer, states) at the tokens `at`."""
    attention = find_text_model(hf).layers[0].self_attn
    width = attention.o_proj.in_features // find_text_model(hf).config.num_attention_heads  # of a head

    def change(layer, seen):
        out, value = seen.clone(), new(layer, seen)
        if heads is None:
            out[at] = value
        else:
            for head in heads:
                out[at, head * width : (head + 1) * width] = value[:, head * width : (head + 1) * width]
        return out

    with embedded(hf, noise), hooked(hf, part, layers, change):
        return oracle.answer_logp(hf, prompt)
