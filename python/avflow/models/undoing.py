"""What was changed is put back, also where a ctrl-C comes while it is being put back.

A KeyboardInterrupt is raised between any two steps of Python, so also in a `finally:` that has undone half of its work.
In a notebook one then goes on with a model that is neither as it was nor as the block wanted it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

Step = Callable[[], Any]


@contextmanager
def undoing() -> Iterator[list[Step]]:
    """A list for calls that put something back; they are made at the end of the block, the last one first.

    Append a call before the change that it undoes. It may be made twice, so it must do no harm then.
    """
    steps: list[Step] = []
    try:
        yield steps
    finally:
        try:
            _undo(steps)
        finally:
            _undo(steps)  # what an interrupt of the line above left


def _undo(steps: list[Step]) -> None:
    while steps:
        steps[-1]()  # stands in the list until it is done
        steps.pop()


def without_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Takes a forward hook or pre-hook off a module, if it is there.

    By the hook itself: the handle that torch returns is lost where an interrupt comes before it is kept.
    """
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, found in hooks.items() if found == hook]:
            hooks.pop(key, None)


@contextmanager
def pre_hooked(module: nn.Module, hook: Callable[..., Any], with_kwargs: bool = False) -> Iterator[None]:
    """A forward pre-hook for as long as the block lasts."""
    with undoing() as undo:
        undo.append(partial(without_hook, module, hook))
        module.register_forward_pre_hook(hook, with_kwargs=with_kwargs)
        yield
