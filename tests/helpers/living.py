"""Tensors that are alive and were not before: other tests of this process may have left some of the same shape."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


class NewTensors:
    """Those that `wanted` takes, made since this object was. It holds what was alive then: no address is used again."""

    def __init__(self, wanted: Callable[[torch.Tensor], bool]):
        gc.collect()
        self.wanted = wanted
        self.before = self._alive()

    def _alive(self) -> list[torch.Tensor]:
        return [t for t in gc.get_objects() if type(t) is torch.Tensor and self.wanted(t)]

    def __call__(self) -> list[torch.Tensor]:
        known = {id(t) for t in self.before}
        return [t for t in self._alive() if id(t) not in known]
