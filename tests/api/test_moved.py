"""Module paths of avflow 0.1 import for one release."""

import importlib
import os
import subprocess
import sys

import pytest

import avflow
from avflow import moved

# One name of every module that the documentation of 0.1, or a program on top of it, used.
USED = {
    "comparison": ("compare_path", "comparison_rows", "read_runs"),
    "cost": ("walks_cost", "eviction_cost", "kept_counts"),
    "data": ("read", "choose", "DataMapping"),
    "demo": ("held_out",),
    "eviction_plan": ("PlanRequest", "PlannedSchedule"),
    "files": ("RunError", "write_whole"),
    "groups": ("GroupTable",),
    "job": ("SweepJob", "run", "estimates"),
    "looking": ("LookJob", "run_look", "EXPERIMENTS", "draw", "LookOutcome"),
    "labels": ("MediaIds", "label_media"),
    "media": ("read_image", "read_video", "open_media"),
    "models": ("load", "wrap", "register", "family_of"),
    "models.qwen2_5_omni": ("Qwen25Omni",),
    "models.video_salmonn2_plus": ("VideoSalmonn2Plus", "load_model"),
    "observe": ("observe", "with_generated"),
    "page.html": ("page",),
    "page.shown": ("read_shown",),
    "parallel.dispatch": ("dispatch",),
    "plan": ("SweepRequest", "Plan", "Window", "Walks"),
    "plan_job": ("PlanJob", "run_plan", "plan_estimates", "ROWS", "PlanOutcome"),
    "plots": ("flow", "flow_panels", "heat_map", "save", "STYLE"),
    "plots_attention": ("share_bars", "lens_lines", "map_image", "pathway_bars"),
    "plots_eviction": ("eviction_lines",),
    "report": ("report", "report_together"),
    "results": ("Results", "read", "select", "mean_change", "bootstrap", "one_width", "SCHEMA", "table_from_rows"),
    "rules": ("Knockout", "as_knockouts"),
    "runs": ("RunFolder", "read_records", "write_table"),
    "sinks": ("sinks", "mark_sinks", "GROUP"),
    "sound": ("read_audio",),
    "sweep": ("sweep", "sweep_prompt", "estimate", "packs"),
    "synthetic": ("make_items", "write_items"),
    "vision": ("VisionProcessor",),
    "walk": ("run_walk",),
}
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("old", USED)
def test_old_paths_import(old):
    module = importlib.import_module(f"avflow.{old}")
    absent = [name for name in USED[old] if not hasattr(module, name)]
    assert not absent


@pytest.mark.parametrize("place", sorted({place for places in moved.MOVED.values() for place in places}))
def test_every_new_place_is_there(place):
    importlib.import_module(f"avflow.{place}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_name_that_is_called_otherwise_is_there():
    for old in moved.RENAMED:
        module, _, name = old.rpartition(".")
        assert getattr(importlib.import_module(f"avflow.{module}"), name) is not None


def test_the_warning_names_the_new_path_and_the_line_that_asked():
    from avflow import schedule

    with pytest.warns(DeprecationWarning, match="avflow.schedule.Step is now avflow.eviction.schedule.Step") as caught:
        assert schedule.Step is avflow.Step
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="avflow.results.SCHEMA is now avflow.results.table.SCHEMA"):
        from avflow.results import SCHEMA
    assert "knockout" in SCHEMA.names


def test_what_was_never_there_is_not_there_now():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("avflow.sweeps")
    from avflow import schedule

    with pytest.raises(AttributeError, match="'avflow.schedule' has no attribute 'Stepp'"):
        schedule.Stepp  # noqa: B018
    with pytest.raises(ImportError):
        from avflow.results import nothing  # noqa: F401


def test_submodules_of_a_package_are_imported_not_looked_up():
    """`from avflow.cli import main` is the module, although avflow 0.1 had a function main in cli.py."""
    code = "from avflow.cli import main; from avflow.plots import style; print(main.__name__, style.__name__)"
    out = subprocess.check_output(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code], text=True, env=ENV
    )
    assert out.split() == ["avflow.cli.main", "avflow.plots.style"]


def test_a_function_stays_callable_beside_the_old_module_of_its_name():
    code = (
        "import avflow, avflow.sweep, avflow.evict, avflow.pathways, avflow.sinks\n"
        "try: avflow.sweep(None, None, window=0)\n"
        "except avflow.InputError as error: print(error)\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env=ENV)
    assert "window width 0" in out


def test_the_finder_is_there_once_and_last():
    found = [type(finder).__name__ for finder in sys.meta_path if type(finder).__module__ == "avflow.moved"]
    assert found == ["_Finder"]
    moved.install()
    assert len([f for f in sys.meta_path if type(f).__module__ == "avflow.moved"]) == 1


def test_a_star_import_of_an_old_path_brings_its_names():
    code = "from avflow.rules import *; print(Knockout('video', 'last').name, as_knockouts('av_video')[0].name, preset)"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert found.returncode == 0 and found.stdout.startswith("video->last"), found.stderr
    brought = importlib.import_module("avflow.looking").__all__
    assert {"LookJob", "run_look", "EXPERIMENTS", "draw", "LookOutcome"} <= {*brought}
    assert not {"annotations", "Any", "checks", "InputError"} & {*brought}
