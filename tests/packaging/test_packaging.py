"""What is shipped: the wheel's content and metadata, what the compiled module links to, what the README promises."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Run in a fresh interpreter: the unpacked wheel comes before everything else, and torch comes from this environment.
IMPORT_ALL = """
import pkgutil, sys
sys.path.insert(0, {folder!r})
import torch, avflow, avflow_ext, avflow_ext._C
for package in (avflow, avflow_ext):
    assert package.__file__.startswith({folder!r}), package.__file__
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        __import__(module.name)
assert avflow_ext._C.__file__.startswith({folder!r}), avflow_ext._C.__file__
assert avflow.__version__ == "0.2.0.dev0", avflow.__version__
ops = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("avflow::")]
assert ops, "importing avflow_ext registered no operator"
print("imported", *ops)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from this tree: seconds, since the objects of `make ext` are reused."""
    if any(importlib.util.find_spec(name) is None for name in ("cmake", "ninja", "pybind11", "setuptools")):
        pytest.skip("the build's tools are not installed in this environment")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def test_the_build_warns_of_nothing(tmp_path):
    """Such as of folders of scripts and templates, which are data and no packages."""
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "ignored" not in done.stdout + done.stderr, done.stderr
    assert (tmp_path / "avflow/report/js/main.js").is_file()


def test_wheel_holds_the_packages_and_nothing_else(wheel):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.startswith(f"avflow-0.2.0.dev0-{python}-{python}-linux_")
    names = zipfile.ZipFile(wheel).namelist()
    source = {
        f"{package}/{path.relative_to(folder)}"
        for package, folder in (
            ("avflow", ROOT / "python/avflow"),
            ("avflow_vllm", ROOT / "python/avflow_vllm"),
            ("avflow_ext", ROOT / "avflow_ext"),
        )
        for path in folder.rglob("*")
        if path.suffix in (".py", ".pyi", ".typed", ".js", ".css", ".j2", ".txt")
    }
    compiled = {f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", "lib/libavflow.so.1", "lib/libavflow_torch.so"}
    targets = ("Config", "ConfigVersion", "Targets", "Targets-release")
    found_by = {f"share/cmake/avflow/avflow{name}.cmake" for name in targets} | {"share/pkgconfig/avflow.pc"}
    beside = {f"avflow_ext/{name}" for name in compiled | found_by | {"include/avflow/avflow.h"}}
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == source | beside
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_says_that_it_is_typed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"avflow/py.typed", "avflow_ext/py.typed", "avflow_ext/_C.pyi"} <= set(names)


def test_wheel_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read("avflow-0.2.0.dev0.dist-info/METADATA").decode()
    fields = [tuple(line.split(": ", 1)) for line in metadata.split("\n\n")[0].splitlines() if ": " in line]
    assert {("Name", "avflow"), ("Requires-Python", ">=3.10"), ("License-Expression", "Apache-2.0")} <= set(fields)
    required = [value for key, value in fields if key == "Requires-Dist" and "extra ==" not in value]
    assert "torch>=2.11" in required
    assert not [requirement for requirement in required if "==" in requirement], "a library pins nothing"
    entries = archive.read("avflow-0.2.0.dev0.dist-info/entry_points.txt").decode()
    assert "avflow = avflow.cli.main:main" in entries
    assert "[vllm.general_plugins]\navflow = avflow_vllm:register" in entries


def test_every_module_of_the_wheel_imports_in_an_empty_environment(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL.format(folder=str(tmp_path))],
        env={},  # no PATH, no HOME, no CUDA variable
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("imported avflow::")


def test_build_target_is_the_oldest_supported_torch():
    major, minor = re.search(r'"torch>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    target = re.search(r"TORCH_TARGET_VERSION=0x(\w+)", (ROOT / "cmake/torch.cmake").read_text()).group(1)
    assert target == f"{int(major):02x}{int(minor):02x}000000000000"


def test_installed_version_is_that_of_the_package():
    import avflow

    assert importlib.metadata.version("avflow") == avflow.__version__


def test_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    named = set(re.findall(r"(?:^|`)make (\w+)", readme, re.MULTILINE))
    assert {"demo", "test"} <= named <= set(targets)
    scripts = re.findall(r"python (\S+\.py)", readme)
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
