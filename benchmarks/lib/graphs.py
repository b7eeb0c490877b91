"""A call as a CUDA graph: what remains of its time without the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def captured(call: Callable[[], T], warm_ups: int = 1, undo: Callable[[], object] | None = None) -> Callable[[], T]:
    """The call as a CUDA graph, whose replay gives the same output objects with new values.

    undo: takes back what a call changed; called after each of the calls that warm up, in which libraries choose their
    kernels and take their workspaces. The capture itself runs nothing.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_ups):
            call()
            if undo is not None:
                undo()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()

    def replay() -> T:
        graph.replay()
        return out

    return replay
