"""The model as it is while avflow runs it: in eval mode, whoever left it in training; and whose hooks it carries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from ..errors import warn_user
from .base import Model
from .every_module import every_module
from .ownership import owning
from .undoing import undoing

# Their hooks serve the model itself (offloading, recorded outputs): no intervention of a user.
_LIBRARIES = {"accelerate", "avflow", "bitsandbytes", "deepspeed", "peft", "torch", "transformers"}
_NEEDED = _LIBRARIES - {"transformers"}  # its hooks record outputs for the caller


@contextmanager
def in_eval_mode(model: Model) -> Iterator[None]:
    """Every module of the model in eval mode for as long as the block lasts; warns the first time that one was not."""
    training = [module for module in every_module(model.hf) if module.training]
    differ = [module for module in training if not isinstance(module, (nn.Linear, nn.Embedding))]
    if differ and "training" not in model.warned:
        model.warned.add("training")
        warn_user(
            f"{len(differ)} modules of the model were in training mode ({type(differ[0]).__name__}, ...), where "
            "dropout makes each run differ: avflow runs it in eval mode, and leaves it as it was. Call model.hf.eval()"
        )
    with owning(model.text_model) if training else nullcontext(), undoing() as undo:
        for module in training:
            undo.append(partial(setattr, module, "training", True))
            module.training = False
        yield


def warn_of_hooks(model: Model, where: str) -> None:
    """Warns, once per module, of forward hooks that a user put on the decoder: packed rows pass through them at once.

    where: what runs, for the message.
    """
    roots: list[tuple[str, nn.Module]] = [("", model.text_model), ("lm_head", model.lm_head)]
    found = []
    for prefix, root in roots:
        hooked = {id(module) for module in every_module(root) if _is_watched(module)}
        for name, module in root.named_modules(prefix=prefix) if hooked else ():
            if id(module) in hooked:
                found.append(name or type(module).__name__)
    new = [name for name in found if f"hook {name}" not in model.warned]
    if new:
        model.warned.update(f"hook {name}" for name in new)
        more = "" if len(new) == 1 else f" and {len(new) - 1} more modules"
        warn_user(
            f"{new[0]}{more} of the decoder carry forward hooks: in {where} all knocked-out runs pass through them as "
            "one packed sequence, so that a hook for one position changes one run only. Within avflow.knockout(...), "
            "one run at a time, hooks see the sequence that they expect"
        )


def _is_watched(module: nn.Module) -> bool:
    """Whether it carries a forward hook of a user's."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(_owner(hook) not in _LIBRARIES for hook in hooks)


def without_hooks(root: nn.Module) -> list[tuple[Any, str, Any]]:
    """Patches for `compat.attributes`: no module below `root` has hooks that watch a run or change it.

    For runs beside the user's own: his hooks count calls, and transformers' collect outputs.
    """
    patches: list[tuple[Any, str, Any]] = []
    for module in every_module(root):
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            hooks = module.__dict__[name]
            if any(_owner(hook) not in _NEEDED for hook in hooks.values()):
                kept = {key: hook for key, hook in hooks.items() if _owner(hook) in _NEEDED}
                patches.append((module, name, OrderedDict(kept)))
    return patches


def _owner(hook: object) -> str:
    """The package whose hook it is."""
    function = getattr(hook, "func", hook)  # of a functools.partial
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.split(".")[0]
