"""Sliding windows: how many tokens each decoder layer looks back, itself included.

Read from the config, since a walk runs the layers without the model's own forward, which makes their masks. That it is
what those masks say is seen twice: by `causal.check_causal`, and by the comparison of clean runs, which is made anew
for the first prompt that is longer than a window.
"""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedModelError


def layer_windows(text_model: Any) -> tuple[int | None, ...]:
    """Per decoder layer its window in tokens; None: it sees all tokens before.

    Raises:
        UnsupportedModelError: a layer that is neither full causal self-attention nor that within a window.
    """
    return tuple(_window(text_model.config, index, layer) for index, layer in enumerate(text_model.layers))


def is_exceeded(text_model: Any, tokens: int) -> bool:
    """Whether some layer's window is shorter than a sequence of so many tokens."""
    return any(window is not None and window < tokens for window in layer_windows(text_model))


def _window(config: Any, index: int, layer: Any) -> int | None:
    attention = getattr(layer, "self_attn", None)
    if attention is None:
        raise UnsupportedModelError(
            f"decoder layer {index} ({type(layer).__name__}) has no self_attn: avflow serves decoders whose every "
            "layer attends (no Mamba, no linear attention); take another model"
        )
    types = getattr(config, "layer_types", None) or []
    own, width = getattr(attention, "sliding_window", None), getattr(config, "sliding_window", None)
    if index >= len(types):  # a family whose layers are all alike: the window stands in the config alone, or nowhere
        used = getattr(config, "use_sliding_window", True)
        return own if own is not None else width if used else None
    kind = types[index]
    if kind == "full_attention":
        return None  # some families note the config's window in these layers too
    if kind == "sliding_attention" and width is not None and own in (None, width):
        return int(width)
    raise UnsupportedModelError(
        f"decoder layer {index} uses {kind} (window {own if own is not None else width}): avflow carries full causal "
        "attention, and causal attention within the sliding_window of the text config"
    )
