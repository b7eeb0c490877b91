"""avflow: attention knockout in audio-visual language models, a whole sweep in one walk over the layers.

::

    model = avflow.load("tiny-omni")                 # or a checkpoint folder, or a name on the hub
    results = avflow.sweep(model, "samples.jsonl")   # or Samples, or Prompts, one or many
    results.table, results.meta, results.to_pandas(), results.save("run"), avflow.read("run")

Experiments: sweep, sweep_text, attention_share, attention_map, answer_lens, sinks, pathways, plan_eviction; `estimate`
says what a sweep costs. Around the model's own forward: the context managers knockout and evict.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from . import moved

if TYPE_CHECKING:
    from .errors import AvflowError as AvflowError
    from .errors import AvflowWarning as AvflowWarning
    from .errors import InputError as InputError
    from .errors import MediaError as MediaError
    from .errors import NumericError as NumericError
    from .errors import RunError as RunError
    from .errors import UnsupportedModelError as UnsupportedModelError
    from .eviction.policies import Changed as Changed
    from .eviction.policies import EveryNth as EveryNth
    from .eviction.policies import KeepAll as KeepAll
    from .eviction.policies import KeepNone as KeepNone
    from .eviction.policies import Policy as Policy
    from .eviction.policies import TopK as TopK
    from .eviction.policies import View as View
    from .eviction.schedule import EvictionSchedule as EvictionSchedule
    from .eviction.schedule import Step as Step
    from .experiments.answer_lens import answer_lens as answer_lens
    from .experiments.attention_map import AttentionMap as AttentionMap
    from .experiments.attention_map import attention_map as attention_map
    from .experiments.attention_share import attention_share as attention_share
    from .experiments.lens_shift import lens_shift as lens_shift
    from .experiments.patch import patch as patch
    from .experiments.patch_sites import PatchSite as PatchSite
    from .experiments.patch_sources import PatchSource as PatchSource
    from .experiments.pathways import pathways as pathways
    from .experiments.sinks import mark_sinks as mark_sinks
    from .experiments.sinks import sinks as sinks
    from .experiments.sweep import estimate as estimate
    from .experiments.sweep import sweep as sweep
    from .experiments.sweep_plan import SweepRequest as SweepRequest
    from .experiments.sweep_text import sweep_text as sweep_text
    from .experiments.token_lens import token_lens as token_lens
    from .knockouts.amplification import Amplification as Amplification
    from .knockouts.knockout import Knockout as Knockout
    from .models.base import Family as Family
    from .models.base import Model as Model
    from .models.batch import Batch as Batch
    from .models.loading import load as load
    from .models.loading import wrap as wrap
    from .models.wording import PromptStyle as PromptStyle
    from .planning.plan_eviction import PlannedSchedule as PlannedSchedule
    from .planning.plan_eviction import plan_eviction as plan_eviction
    from .prompts.label_hook import Labels as Labels
    from .prompts.prompt import Prompt as Prompt
    from .prompts.sample import Sample as Sample
    from .results.results import Results as Results
    from .results.results import read as read
    from .runtime.evict import evict as evict
    from .runtime.generating import generate as generate
    from .runtime.knockout import knockout as knockout

__version__ = "0.2.0.dev0"

# Public name -> module. Resolved on first use, so that `import avflow` needs neither transformers nor pyarrow.
# The imports above say the same to editors and type checkers.
_EXPORTS = {
    "Amplification": "knockouts.amplification",
    "AttentionMap": "experiments.attention_map",
    "AvflowError": "errors",
    "AvflowWarning": "errors",
    "Batch": "models.batch",
    "Changed": "eviction.policies",
    "EveryNth": "eviction.policies",
    "EvictionSchedule": "eviction.schedule",
    "Family": "models.base",
    "InputError": "errors",
    "KeepAll": "eviction.policies",
    "KeepNone": "eviction.policies",
    "Knockout": "knockouts.knockout",
    "Labels": "prompts.label_hook",
    "MediaError": "errors",
    "Model": "models.base",
    "NumericError": "errors",
    "PatchSite": "experiments.patch_sites",
    "PatchSource": "experiments.patch_sources",
    "PlannedSchedule": "planning.plan_eviction",
    "Policy": "eviction.policies",
    "Prompt": "prompts.prompt",
    "Results": "results.results",
    "RunError": "errors",
    "Sample": "prompts.sample",
    "Step": "eviction.schedule",
    "SweepRequest": "experiments.sweep_plan",
    "PromptStyle": "models.wording",
    "TopK": "eviction.policies",
    "UnsupportedModelError": "errors",
    "View": "eviction.policies",
    "answer_lens": "experiments.answer_lens",
    "attention_map": "experiments.attention_map",
    "attention_share": "experiments.attention_share",
    "estimate": "experiments.sweep",
    "evict": "runtime.evict",
    "generate": "runtime.generating",
    "knockout": "runtime.knockout",
    "lens_shift": "experiments.lens_shift",
    "load": "models.loading",
    "mark_sinks": "experiments.sinks",
    "patch": "experiments.patch",
    "pathways": "experiments.pathways",
    "plan_eviction": "planning.plan_eviction",
    "read": "results.results",
    "sinks": "experiments.sinks",
    "sweep": "experiments.sweep",
    "sweep_text": "experiments.sweep_text",
    "token_lens": "experiments.token_lens",
    "wrap": "models.loading",
}
# Packages that `avflow.data.read(...)` and the like reach without an import of their own.
_PACKAGES = ("data", "models", "plots", "report", "results", "synthetic")
# Internal names that avflow 0.1 exported.
_HIDDEN = {"GroupTable": "prompts.groups", "sweep_prompt": "experiments.sweep"}

__all__ = sorted([*_EXPORTS, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HIDDEN:
        text = f"avflow.{name} is internal and goes with avflow 0.3: it is avflow.{_HIDDEN[name]}.{name}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(f".{_HIDDEN[name]}", __name__), name)
    if name not in _EXPORTS:
        raise AttributeError(f"module 'avflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])


moved.install()
