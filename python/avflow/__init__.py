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
    "EveryNth": "eviction.policies",
    "EvictionSchedule": "eviction.schedule",
    "InputError": "errors",
    "KeepAll": "eviction.policies",
    "KeepNone": "eviction.policies",
    "MediaError": "errors",
    "NumericError": "errors",
    "UnsupportedModelError": "errors",
    "GroupTable": "prompts.groups",
    "Knockout": "knockouts.knockout",
    "Model": "models.base",
    "Prompt": "prompts.prompt",
    "Results": "results.results",
    "Sample": "prompts.sample",
    "Step": "eviction.schedule",
    "SweepRequest": "experiments.sweep_plan",
    "TopK": "eviction.policies",
    "answer_lens": "experiments.answer_lens",
    "attention_map": "experiments.attention_map",
    "attention_share": "experiments.attention_share",
    "estimate": "experiments.sweep",
    "evict": "runtime.evict",
    "knockout": "runtime.knockout",
    "load": "models",
    "mark_sinks": "experiments.sinks",
    "pathways": "experiments.pathways",
    "plan_eviction": "planning.plan_eviction",
    "read": "results.results",
    "sinks": "experiments.sinks",
    "sweep": "experiments.sweep",
    "sweep_prompt": "experiments.sweep",
    "sweep_text": "experiments.sweep_text",
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
