"""The wheels in an environment that has nothing else: what a user does first, then the tests of what is compiled."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from packages import DIST, ROOT, only
from steps import Failed, run

MAKE_SAMPLES = """
import sys
from avflow.synthetic import make_items, write_items
print(write_items(make_items("heldout", 2, tasks=("color",)), sys.argv[1]))
"""
PACK = """
import importlib.machinery, importlib.util, hashlib
import numpy as np
where = importlib.machinery.PathFinder.find_spec("avflow_ext").submodule_search_locations
spec = importlib.machinery.PathFinder.find_spec("_C", where)
_C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_C)
rows = np.array([[i, i % 3, 0, 0] for i in range(300)], dtype=np.int32)
cut = _C.Cut(2, 4, None, False, None, False, 0, 0)
streams = np.array([[-1, 0]], dtype=np.int32)
words = _C.pack(rows, rows, streams, [cut], None, None, 300, 300, 4, _C.tile_rows(4), False, None)
print("packs:", hashlib.sha256(words.tobytes()).hexdigest()[:16])
"""
# What links to the wheel's libraries and looks into them; fast enough to be run for each wheel.
TESTS = (
    "tests/packaging/test_products.py",
    "tests/packaging/test_manylinux.py",
    "tests/embedding/test_examples.py",
    "tests/embedding/test_libtorch.py",
    "tests/embedding/test_c_mistakes.py",
)
NEEDED_BY_TESTS = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "cmake>=3.24", "ninja", "setuptools")


def install(python: Path, wheel: Path) -> str:
    """The wheel alone, then doctor, which must say that the small models are not there; then these."""
    pip = (python, "-m", "pip", "install")
    run(*pip, wheel)
    with tempfile.TemporaryDirectory() as empty:
        alone = run(python.with_name("avflow"), "doctor", cwd=Path(empty))
        run(*pip, f"avflow[demo] @ {wheel.as_uri()}", "--find-links", DIST)
        whole = run(python.with_name("avflow"), "doctor", cwd=Path(empty))
    if "avflow-models is not installed" not in alone or "tiny-omni" not in whole or "not run" in whole:
        raise Failed(f"doctor without the models:\n{alone}\nand with them:\n{whole}")
    return "avflow doctor: " + whole.strip().splitlines()[-1]


def module(python: Path, wheel: Path) -> str:
    """The compiled module of a Python that has no torch: it loads, and packs."""
    run(python, "-m", "pip", "install", "numpy")
    run(python, "-m", "pip", "install", "--no-deps", "--force-reinstall", wheel)
    with tempfile.TemporaryDirectory() as empty:
        return run(python, "-c", PACK, cwd=Path(empty)).strip()


def sweep(python: Path) -> str:
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(empty)
        samples = run(python, "-c", MAKE_SAMPLES, folder / "clips", cwd=folder).strip().splitlines()[-1]
        cut = ("--knockouts", "video->question", "--window", "3", "--select", "all")
        said = run(python.with_name("avflow"), "sweep", "tiny-omni", samples, *cut, "--out", folder / "run", cwd=folder)
        only(folder / "run", "rows.parquet")
    return said.strip().splitlines()[-1]


def test(python: Path) -> str:
    """The tests of the checkout on the installed wheel: from a folder where the checkout's packages are not found."""
    run(python, "-m", "pip", "install", *NEEDED_BY_TESTS)
    with tempfile.TemporaryDirectory() as empty:
        options = ("-q", "-rs", "-p", "no:cacheprovider", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml")
        pytest = python.with_name("pytest")
        said = run(pytest, *options, *(ROOT / test for test in TESTS), cwd=Path(empty), OMP_NUM_THREADS="1")
    return said.strip().splitlines()[-1] + "\n" + said


if __name__ == "__main__":  # in the environment of this Python, where avflow and avflow-models are installed
    here = Path(sys.executable)
    print(run(here.with_name("avflow"), "doctor"), sweep(here), test(here), sep="\n")
