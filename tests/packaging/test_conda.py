"""The conda recipes say what pyproject.toml says: versions, Pythons, requirements under conda-forge's names."""

import re
import sys
from pathlib import Path

import pytest
import yaml

import avflow

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # where conda-forge has another than PyPI


def recipe(name: str) -> dict:
    return yaml.safe_load((ROOT / "conda" / name / "recipe.yaml").read_text())


def pyproject(folder: str = "") -> dict:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())


def renamed(requirements: list[str]) -> set[str]:
    """ "torch>=2.11" as "pytorch >=2.11"."""
    parts = [re.fullmatch(r"([\w-]+)(.*)", requirement).groups() for requirement in requirements]
    return {f"{NAMES.get(name, name)} {bounds}".strip() for name, bounds in parts}


def bare(requirements: list[str]) -> set[str]:
    return {line for line in requirements if "${{" not in line}


def test_versions_are_the_packages():
    weights = re.search(r'^VERSION = "(.+?)"', (ROOT / "avflow-models/avflow_models/__init__.py").read_text(), re.M)[1]
    assert recipe("avflow")["context"]["version"] == avflow.__version__
    assert recipe("avflow-models")["context"]["version"] == weights


def test_what_runs_is_what_pyproject_asks_for():
    assert set(recipe("avflow")["requirements"]["run"]) == renamed(pyproject()["project"]["dependencies"]) | {"python"}


def test_what_builds_is_what_pyproject_asks_for():
    asked = recipe("avflow")["requirements"]
    torch = renamed([d for d in pyproject()["project"]["dependencies"] if d.startswith("torch")])
    assert bare(asked["build"]) | bare(asked["host"]) == (
        renamed(pyproject()["build-system"]["requires"]) | torch | {"python", "pip"}
    )
    models = recipe("avflow-models")["requirements"]["host"]
    assert renamed(pyproject("avflow-models")["build-system"]["requires"]) <= set(models)


def test_the_oldest_python_is_pyprojects():
    oldest = pyproject()["project"]["requires-python"].removeprefix(">=")
    assert f'match(python, "<{oldest}")' in recipe("avflow")["build"]["skip"]
    assert (
        f"python {pyproject('avflow-models')['project']['requires-python']}"
        in recipe("avflow-models")["requirements"]["run"]
    )


@pytest.mark.parametrize("name", ["avflow", "avflow-models"])
def test_the_source_is_this_checkout(name):
    source = (ROOT / "conda" / name / recipe(name)["source"]["path"]).resolve()
    assert (source / "pyproject.toml").is_file() and (source / recipe(name)["about"]["license_file"]).is_file()
    assert recipe(name)["about"]["license"] == pyproject()["project"]["license"]
