"""examples/cpp, built and run: C and C++ without torch, against the installed libraries and a static one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from binaries import run
from consumers import ROOT, examples

import avflow_ext
from avflow_ext import capabilities


def said(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_programs(folder: Path) -> None:
    words = {said(folder / "knockout", *threads) for threads in ([], ["3"])}
    assert len(words) == 1, "the number of threads changed the answer"
    seen, hidden = re.search(r"gives the video ([\d.]+) of its attention; cut, ([\d.]+)$", words.pop()).groups()
    assert float(seen) > 0.9 and float(hidden) == 0
    assert said(folder / "evict") == "stayed: 0 3 7 11; sum of the norms' sizes 64.000\n"


def test_programs_in_c_and_cpp(programs):
    check_programs(programs)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", str(programs / "evict")))
    assert "libavflow.so.1" in needed
    assert not [name for name in needed if re.search("torch|python|stdc", name)]


def test_programs_with_a_static_library(static_install, tmp_path):
    """Of a plain build; both layouts of an installation are found this way."""
    folder = examples(tmp_path / "build", str(next(static_install.glob("lib*/**/cmake/avflow"))))
    check_programs(folder)
    assert "libavflow" not in run("readelf", "-d", str(folder / "evict"))
    names = {str(path.relative_to(static_install)) for path in static_install.rglob("*") if path.is_file()}
    assert not [name for name in names if "torch" in name or "_C" in name]
    assert "include/avflow/avflow.h" in names


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_pkg_config(kind, request, tmp_path):
    if not shutil.which("pkg-config") or not shutil.which("gcc"):
        pytest.skip("pkg-config or gcc is not installed")
    if kind == "shared":
        path = Path(avflow_ext.get_cmake_dir()).parents[1] / "pkgconfig"
    else:
        path = next(request.getfixturevalue("static_install").glob("lib*/**/pkgconfig"))
    env = {"PKG_CONFIG_PATH": str(path), "PATH": "/usr/bin:/bin"}
    asked = ["pkg-config", "--cflags", "--libs", "--static", "avflow"]
    flags = subprocess.run(asked, check=True, capture_output=True, text=True, env=env).stdout.split()
    program = tmp_path / "evict"
    origin = [f"-Wl,-rpath,{avflow_ext.get_library_dir()}"]
    source = str(ROOT / "examples/cpp/evict.c")
    subprocess.run(["gcc", "-std=c99", source, "-o", str(program), *flags, "-lm", *origin], check=True)
    assert said(program).startswith("stayed: 0 3 7 11")


def test_the_paths_that_a_build_asks_for():
    asked = {"--includedir": "get_include", "--libdir": "get_library_dir", "--cmakedir": "get_cmake_dir"}
    for option, name in {**asked, "--operators": "get_operators"}.items():
        path = Path(getattr(avflow_ext, name)())
        assert path.exists(), option
    code = f"import sys; sys.path[:0] = {sys.path!r}; import runpy; sys.argv = ['avflow_ext', '--cmakedir']\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "runpy.run_module('avflow_ext', run_name='__main__')"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == avflow_ext.get_cmake_dir(), done.stderr
    assert (Path(avflow_ext.get_include()) / "avflow/avflow.h").read_text() == (
        ROOT / "csrc/include/avflow/avflow.h"
    ).read_text(), "avflow_ext/include is older than csrc: run `make ext`"


def test_a_program_without_torch_runs_the_path_that_python_runs(programs):
    assert f" on {capabilities()['cpu']}: " in said(programs / "knockout")
