"""Whether a module's call is its class's forward alone, so that another way to the same numbers may stand in for it."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_bare(module: nn.Module) -> bool:
    """Whether calling it is running its class's forward and nothing else: no hook of its own, none of all modules."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return False
    held = module.__dict__
    if "forward" in held:
        return False
    for name in _HOOKS:  # a loop: asked of every module of a decoder before a walk, where any() takes twice as long
        if held.get(name):
            return False
    return True
