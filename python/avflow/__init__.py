"""avflow: attention knockout in audio-visual language models, a whole sweep in one walk over the layers."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# Public name -> module. Resolved on first use, so that `import avflow` needs neither transformers nor pyarrow.
_EXPORTS = {
    "AvflowError": "errors",
    "EveryNth": "policies",
    "EvictionSchedule": "schedule",
    "InputError": "errors",
    "KeepAll": "policies",
    "KeepNone": "policies",
    "MediaError": "errors",
    "NumericError": "errors",
    "UnsupportedModelError": "errors",
    "GroupTable": "groups",
    "Knockout": "rules",
    "Model": "models.base",
    "Prompt": "prompt",
    "Results": "results",
    "Sample": "sample",
    "Step": "schedule",
    "SweepRequest": "sweep",
    "TopK": "policies",
    "answer_lens": "lens",
    "attention_map": "maps",
    "attention_share": "share",
    "estimate": "sweep",
    "evict": "evict",
    "knockout": "patch",
    "load": "models",
    "mark_sinks": "sinks",
    "pathways": "pathways",
    "plan_eviction": "eviction_plan",
    "read": "results",
    "sinks": "sinks",
    "sweep": "sweep",
    "sweep_prompt": "sweep",
    "sweep_text": "open_ended",
    "wrap": "models",
}

__all__ = sorted([*_EXPORTS, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'avflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps `avflow.sweep` the function: importing the submodule of that name would otherwise put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _EXPORTS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
