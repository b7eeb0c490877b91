"""Module paths of avflow 0.1, which keep importing for one release, with a DeprecationWarning that names the new path.

The table goes from an old path to the places where its names are now; `RENAMED` has names that are called otherwise.
A finder at the end of sys.meta_path serves them: it is asked only for modules that no longer exist. An old path that is
a package now serves its old names by `__getattr__ = old_names(__name__)` in its `__init__`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Old module -> new modules, asked in this order. All relative to avflow.
MOVED: dict[str, tuple[str, ...]] = {
    "answering": ("runtime.answering",),
    "attention": ("models.attention",),
    "bench": ("cli.bench",),
    "boundary": ("runtime.boundary",),
    "capture": ("walk.capture",),
    "checkpoints": ("models.checkpoints",),
    "chunks": ("walk.chunks",),
    "cli_evict": ("cli.evict",),
    "cli_look": ("cli.look",),
    "cli_tools": ("cli.options",),
    "comparison": ("report.comparison",),
    "compat": ("models.compat",),
    "conversation": ("runtime.conversation",),
    "cost": ("walk.cost", "planning.savings"),
    "decoding": ("runtime.decoding",),
    "demo.checkpoint": ("tiny.checkpoint",),
    "demo.clips": ("synthetic.files",),
    "demo.omni": ("tiny.omni",),
    "demo.salmonn": ("tiny.salmonn",),
    "demo.tokenizer": ("tiny.tokenizer",),
    "demo.vision": ("tiny.vision",),
    "demo.weights": ("tiny.random_weights",),
    "doctor": ("cli.doctor",),
    "dropping": ("runtime.cache",),
    "evict": ("runtime.evict",),
    "eviction_choice": ("planning.choice",),
    "eviction_plan": ("planning.plan_eviction",),
    "eviction_walks": ("planning.trials",),
    "forward": ("runtime.prefill",),
    "generating": ("runtime.generating",),
    "groups": ("prompts.groups",),
    "job": ("runs.sweep_job", "runs.source", "runs.loop", "runs.job"),
    "labelling": ("runtime.labels",),
    "labels": ("prompts.labels",),
    "layout": ("walk.layout",),
    "lens": ("experiments.answer_lens",),
    "looking": ("runs.look_job", "runs.look_figures", "runs.loop"),
    "maps": ("experiments.attention_map",),
    "memory": ("walk.memory",),
    "merge": ("runs.merge",),
    "models.omni_positions": ("models.qwen2_5_omni.positions",),
    "observe": ("experiments.observe",),
    "open_ended": ("experiments.sweep_text",),
    "page": ("report",),
    "page.collect": ("report.collect",),
    "page.flow": ("report.flow",),
    "page.html": ("report.html",),
    "page.ink": ("report.colors",),
    "page.looks": ("report.tables",),
    "page.shown": ("demo.sample_view", "report.samples"),
    "page.words": ("report.words",),
    "parallel": ("runs.workers",),
    "parallel.dispatch": ("runs.workers.dispatch",),
    "parallel.on_ray": ("runs.workers.on_ray",),
    "parallel.processes": ("runs.workers.processes",),
    "parallel.worker": ("runs.workers.worker",),
    "patch": ("runtime.knockout",),
    "path_style": ("plots.style",),
    "pathways": ("experiments.pathways",),
    "pictures": ("media.images",),
    "plan": ("experiments.sweep_plan", "walk.packing"),
    "plan_job": ("runs.plan_run", "runs.plan_job"),
    "plots_attention": ("plots.attention", "plots.attention_maps"),
    "plots_eviction": ("plots.eviction",),
    "policies": ("eviction.policies",),
    "presets": ("knockouts.presets",),
    "processing": ("models.qwen2_5_omni.processor",),
    "prompt": ("prompts.prompt",),
    "rules": ("knockouts.knockout", "knockouts.presets"),
    "runner": ("walk.answers",),
    "salmonn": ("models.video_salmonn2_plus",),
    "salmonn.checkpoint": ("models.video_salmonn2_plus.checkpoint",),
    "salmonn.config": ("models.video_salmonn2_plus.config",),
    "salmonn.generation": ("models.video_salmonn2_plus.generation",),
    "salmonn.modeling": ("models.video_salmonn2_plus.modeling",),
    "salmonn.positions": ("models.video_salmonn2_plus.positions",),
    "salmonn.processing": ("models.video_salmonn2_plus.processor",),
    "sample": ("prompts.sample",),
    "schedule": ("eviction.schedule",),
    "scores": ("runtime.scores",),
    "share": ("experiments.attention_share",),
    "sinks": ("experiments.sinks",),
    "sound": ("media.audio",),
    "stream_decode": ("walk.decode",),
    "sweep": ("experiments.sweep", "experiments.sweep_plan", "walk.packing"),
    "tracking": ("runtime.tracker",),
    "vision": ("models.vision_processor",),
    "walk_jobs": ("walk.jobs",),
    "windows": ("knockouts.windows",),
    # Packages now, modules then.
    "demo": ("demo.questions",),
    "cli": ("cli.main",),
    "media": ("media.video", "media.stills", "media.images", "media.index", "media.decoding", "media.frames"),
    "models.qwen2_5_omni": ("models.qwen2_5_omni.family",),
    "models.video_salmonn2_plus": ("models.video_salmonn2_plus.family",),
    "plots": ("plots.information_flow",),
    "report": ("report.write",),
    "results": ("results.table",),
    "runs": ("runs.folder", "runs.records", "runs.summary", "results.table", "files"),
    "walk": ("walk.walk",),
}
# Names that left for elsewhere, or are called otherwise: "old module.name" -> "new module.name".
RENAMED: dict[str, str] = {
    "cli_tools.told": "cli.options.cli_errors",
    "looking.LookOutcome": "runs.loop.Outcome",
    "looking.draw": "runs.look_figures.draw_look",
    "looking.run_look": "runs.loop.run",
    "observe.with_generated": "runtime.generating.with_generated",
    "page.shown.read_shown": "report.samples.read_sample_views",
    "page.shown.shown": "demo.sample_view.sample_view",
    "page.shown.write_shown": "report.samples.write_sample_views",
    "parallel.processes.as_told": "runs.workers.worker.sendable",
    "plan_job.ROWS": "results.schemas.PLAN",
    "plan_job.plan_estimates": "runs.loop.estimates",
}


def old_names(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module at an old path: finds the name in its new places.

    Args:
        module: full name, such as "avflow.results".
    """
    old = module.partition(".")[2]

    def find(name: str) -> Any:
        # A submodule is not looked up but imported, once this has failed.
        if not name.startswith("_") and not _is_submodule(module, name):
            for place, new in _places(old, name):
                value = getattr(importlib.import_module(f"avflow.{place}"), new, None)
                if value is not None and not isinstance(value, ModuleType):
                    text = f"{module}.{name} is now avflow.{place}.{new}: the old path goes with avflow 0.3"
                    warnings.warn(text, DeprecationWarning, stacklevel=2)
                    return value
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def _is_submodule(module: str, name: str) -> bool:
    is_package = hasattr(sys.modules.get(module), "__path__")
    return is_package and importlib.util.find_spec(f"{module}.{name}") is not None


def _places(old: str, name: str) -> list[tuple[str, str]]:
    """(module, name) of every place where a name of an old module may be."""
    if f"{old}.{name}" in RENAMED:
        module, _, new = RENAMED[f"{old}.{name}"].rpartition(".")
        return [(module, new)]
    return [(place, name) for place in MOVED[old]]


class _OldModule(ModuleType):
    """A module at an old path. One that is called as a function of avflow (sweep, evict, ...) is that function too."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _function(self.__name__)(*arguments, **options)

    @property
    def __all__(self) -> list[str]:
        """The public names of the new places: what `from avflow.rules import *` brings."""
        old = self.__name__.partition(".")[2]
        names = [name.rpartition(".")[2] for name in RENAMED if name.rpartition(".")[0] == old]
        for place in MOVED[old]:
            module = importlib.import_module(f"avflow.{place}")
            for name, value in vars(module).items():
                own = getattr(value, "__module__", module.__name__) == module.__name__  # a constant has no module
                if own and not name.startswith("_") and not isinstance(value, ModuleType):
                    names.append(name)
        return list(dict.fromkeys(names))

    def __reduce__(self) -> Any:  # pickled as the function
        return _function, (self.__name__,)


def _function(module: str) -> Any:
    """The function of avflow that has the name of an old module ("avflow.sweep")."""
    place = MOVED[module.partition(".")[2]][0]
    return getattr(importlib.import_module(f"avflow.{place}"), module.rpartition(".")[2])


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != "avflow" or old not in MOVED:
            return None
        inner = any(name.startswith(f"{old}.") for name in MOVED)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=inner)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _OldModule(spec.name, f"Old path of avflow.{MOVED[spec.name.partition('.')[2]][0]}.")

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = old_names(module.__name__)  # type: ignore[method-assign]
        with contextlib.suppress(AttributeError):  # most old modules have no function of their name
            function = _function(module.__name__)
            if inspect.isfunction(function):  # help() and editors see the function
                vars(module).update(__doc__=function.__doc__, __signature__=inspect.signature(function))


def install() -> None:
    """Puts the finder at the end of sys.meta_path; once a process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
