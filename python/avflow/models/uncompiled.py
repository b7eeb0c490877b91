"""Modules that somebody compiled (torch.compile): avflow stops and changes forwards where their graphs do not look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..errors import UnsupportedModelError

_WRAPPED = "_orig_mod"  # of what torch.compile(module) returns


def is_wrapped(module: nn.Module) -> bool:
    """Is it what torch.compile made of a module?"""
    return _WRAPPED in module._modules


def has_compiled_forward(module: nn.Module) -> bool:
    """Was its forward exchanged for what torch.compile made of it? Hooks of its own run outside of that."""
    return hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable")


def check_uncompiled(parts: Iterable[tuple[str, Any]], why: str, forwards: bool = True) -> None:
    """Refuses compiled modules.

    Args:
        parts: (name, module); what is no module is passed over. why: what avflow does there.
        forwards: whether that is within their forwards, so that a compiled forward is refused too.

    Raises:
        UnsupportedModelError: one of the modules was compiled by `module.compile()` or by `torch.compile(module)`, or
            its forward was.
    """
    for name, module in parts:
        if not isinstance(module, nn.Module):
            continue
        if is_wrapped(module):
            how, mend = "torch.compile(module)", f"put back the module that it was made of (its {_WRAPPED})"
        elif getattr(module, "_compiled_call_impl", None) is not None:
            how, mend = "module.compile()", "load the model without that, or set its _compiled_call_impl to None"
        elif forwards and has_compiled_forward(module):
            how, mend = "module.forward = torch.compile(module.forward)", "take that off: del module.forward"
        else:
            continue
        raise UnsupportedModelError(
            f"{name} ({type(module).__name__}) is compiled by {how}: {why}, which its graph does not see; {mend}. "
            "generate(cache_implementation='static') compiles an answer's steps by itself and needs neither"
        )


def whole(hf: nn.Module, text_model: nn.Module | None = None) -> list[tuple[str, Any]]:
    """The model, what lies between it and its decoder, and the decoder, where it is given."""
    return [("the model", hf), ("the model within", getattr(hf, "model", None)), ("the decoder", text_model)]


def layers_of(text_model: Any, first: int = 0) -> list[tuple[str, Any]]:
    """The decoder's layers from `first` on."""
    return [(f"decoder layer {index}", text_model.layers[index]) for index in range(first, len(text_model.layers))]
