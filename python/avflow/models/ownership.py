"""One context at a time: while avflow has changed a decoder, it runs for the thread or task that asked for it alone.

A block of `avflow.evict` puts hooks and another attention function into the model. A second thread's call would be
evicted too, or take rows that are the first one's; so it is refused, with what to do instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from .undoing import undoing, without_hook

_ATTRIBUTE = "_avflow_owner"  # of a decoder, while somebody owns it
_LOCK = threading.Lock()


class _Owner:
    """The context that changed a decoder, by the thread that it ran in."""

    def __init__(self) -> None:
        self.thread = threading.current_thread().name

    def refuse(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Forward pre-hook of the decoder: raises InputError in every context but the owner's."""
        if not torch.compiler.is_compiling():
            self.check()

    def check(self) -> None:
        if self not in _OWNED.get():
            raise InputError(
                "this model is in a block of avflow.evict or avflow.knockout, or in an experiment, of another thread "
                f"or task ({self.thread!r}; here is {threading.current_thread().name!r}). One runs at a time: wait, "
                "with a lock, or load a model for each. To run this call within that block, start the thread in its "
                "context: Thread(target=contextvars.copy_context().run, args=(model.hf.generate,), kwargs=...)"
            )


_OWNED: ContextVar[tuple[_Owner, ...]] = ContextVar("avflow_owned", default=())  # by this context


def check_owner(text_model: nn.Module) -> None:
    """Raises InputError where another thread or task has changed this decoder."""
    owner = text_model.__dict__.get(_ATTRIBUTE)
    if owner is not None:
        owner.check()


@contextmanager
def owning(text_model: nn.Module) -> Iterator[None]:
    """The decoder is this context's for as long as the block lasts; in one that is, already, nothing changes.

    Threads and tasks that are started with a copy of this context own it with it.

    Raises:
        InputError: it is another one's.
    """
    with undoing() as undo:
        with _LOCK:
            check_owner(text_model)
            if _ATTRIBUTE not in text_model.__dict__:
                owner = _Owner()
                undo.append(partial(text_model.__dict__.pop, _ATTRIBUTE, None))
                undo.append(partial(without_hook, text_model, owner.refuse))
                undo.append(partial(_forget, owner))
                text_model.__dict__[_ATTRIBUTE] = owner
                _OWNED.set((*_OWNED.get(), owner))
                text_model.register_forward_pre_hook(owner.refuse, prepend=True, with_kwargs=True)
        yield


def _forget(owner: _Owner) -> None:
    _OWNED.set(tuple(other for other in _OWNED.get() if other is not owner))
