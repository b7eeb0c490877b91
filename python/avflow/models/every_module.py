"""A model's modules, listed several times as fast as torch's `modules()` does it.

A walk asks which of them are in training mode or carry hooks, before the first layer may run: a Thinker has 1,500.
"""

from __future__ import annotations

from torch import nn


def every_module(root: nn.Module) -> list[nn.Module]:
    """`root` and all modules in it, each once, in the order of `root.modules()`."""
    found: dict[int, nn.Module] = {}
    _add(root, found)
    return list(found.values())


def _add(module: nn.Module, found: dict[int, nn.Module]) -> None:
    found[id(module)] = module
    for part in module._modules.values():
        if part is not None and id(part) not in found:
            _add(part, found)
