"""avflow-models, the package of tiny-omni and tiny-salmonn: what is in it, and what avflow does without it."""

import importlib.util
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import avflow
from avflow import weights
from avflow.cli.self_check import checked_models
from avflow.demo.questions import held_out
from avflow.errors import InputError
from avflow.models.fingerprint import checkpoint_fingerprint

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "avflow-models/avflow_models"


@pytest.fixture
def without(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "avflow_models" else find(name, *a)
    )


@pytest.fixture
def of_another_series(monkeypatch):
    of = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.0.1" if name == "avflow-models" else of(name))


@pytest.mark.parametrize("name", weights.NAMES)
def test_without_it_a_load_says_how_to_get_it(without, name):
    with pytest.raises(InputError, match=rf"'{name}' is in a package .* pip install 'avflow-models>=1,<2'$"):
        avflow.load(name)
    assert checkpoint_fingerprint(name) == {}


def test_without_it_the_demo_makes_nothing(without, tmp_path):
    with pytest.raises(InputError, match="not installed: pip install"):
        held_out(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_without_it_doctor_finds_nothing_wrong(without):
    problems: list[str] = []
    assert "not run, the package avflow-models is not installed: pip" in checked_models(problems)["models"]
    assert problems == []


def test_other_weights_are_refused(of_another_series):
    with pytest.raises(InputError, match=r"avflow-models 2.0.1 has other weights .* 'avflow-models>=1,<2'$"):
        avflow.load("tiny-omni")
    problems: list[str] = []
    assert checked_models(problems) == {"models": "not run, see the problems"}
    assert len(problems) == 1 and "2.0.1" in problems[0]


def test_the_two_packages_agree_on_the_series():
    series = int(re.search(r'VERSION = "(\d+)\.\d+\.\d+"', (PACKAGE / "__init__.py").read_text()).group(1))
    assert series == weights.SERIES
    assert f'demo = ["avflow-models>={series},<{series + 1}"]' in (ROOT / "pyproject.toml").read_text()


def test_its_wheel_has_the_checkpoints_and_no_code(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "-w", str(tmp_path), str(PACKAGE.parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("avflow_models-1.") and wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == {f"avflow_models/{path.relative_to(PACKAGE)}" for path in files} and len(shipped) > 20
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
