"""What `import avflow` offers."""

import ast
import inspect
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import avflow
from avflow import errors

EXPERIMENTS = (
    "sweep",
    "sweep_text",
    "attention_share",
    "attention_map",
    "answer_lens",
    "token_lens",
    "sinks",
    "mark_sinks",
    "pathways",
    "patch",
)


@pytest.mark.parametrize("name", avflow.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    value = getattr(avflow, name)
    assert name in dir(avflow)
    if name != "__version__":
        assert value.__name__ == name and inspect.getdoc(value)


def test_every_error_is_public():
    found = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert found <= set(avflow.__all__) and "RunError" in found


def test_type_checkers_see_what_is_there():
    """The imports under TYPE_CHECKING are those that are resolved at run time."""
    tree = ast.parse(Path(avflow.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {name.asname: node.module for node in block.body for name in node.names}
    assert seen == avflow._EXPORTS


def test_import_is_light():
    heavy = ("torch", "transformers", "pyarrow", "numpy", "matplotlib", "yaml")
    code = f"import sys, avflow; dir(avflow); print([m for m in {heavy} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=env).strip() == "[]"


def test_packages_need_no_import_of_their_own():
    code = "import avflow; print(*(f.__name__ for f in (avflow.data.read, avflow.plots.flow, avflow.results.select)))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.check_output(
        [sys.executable, "-W", "error::DeprecationWarning:avflow", "-c", code], text=True, env=env
    )
    assert out.split() == ["read", "flow", "select"]


@pytest.mark.parametrize("name", ["sweep_prompt", "GroupTable"])
def test_internal_names_go_with_a_warning(name):
    assert name not in avflow.__all__
    with pytest.warns(DeprecationWarning, match=f"avflow.{name} is internal") as caught:
        assert getattr(avflow, name).__name__ == name
    assert caught[0].filename == __file__


def test_there_is_no_other_name():
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        avflow.swep  # noqa: B018


@pytest.mark.parametrize("name", ["sweep", "sweep_text"])
def test_the_defaults_of_a_sweep_are_those_of_its_request(name):
    parameters = inspect.signature(getattr(avflow, name)).parameters
    shared = [field.name for field in fields(avflow.SweepRequest) if field.name in parameters]
    assert set(shared) >= {"knockouts", "window", "style", "layers", "semantics", "memory"}
    assert {n: parameters[n].default for n in shared} == {n: getattr(avflow.SweepRequest, n) for n in shared}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_take_a_model_and_prompts_first(name):
    first, second = list(inspect.signature(getattr(avflow, name)).parameters)[:2]
    assert first == "model" and second in ("prompts", "prompt")
