"""Which compilers are refused when a build is configured, and in which words."""

import subprocess
from pathlib import Path

import pytest
from consumers import ROOT, tool


def configure(folder: Path, name: str, version: str) -> str:
    """What CMake says where it takes the machine's compiler for this one."""
    known = ("-DCMAKE_CXX_COMPILER_ID_RUN=1", "-DCMAKE_CXX_COMPILER_FORCED=1")
    claims = (f"-DCMAKE_CXX_COMPILER_ID={name}", f"-DCMAKE_CXX_COMPILER_VERSION={version}")
    ninja = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")
    command = [tool("cmake"), "-S", str(ROOT), "-B", str(folder), *ninja, *known, *claims]
    return " ".join(subprocess.run(command, capture_output=True, text=True).stderr.split())


@pytest.mark.parametrize("name, version", [("GNU", "10.5.0"), ("Clang", "13.0.1")])
def test_an_older_one_is_refused_in_a_sentence(tmp_path, name, version):
    said = configure(tmp_path, name, version)
    assert f"is {name} {version}: avflow needs GCC 11 or Clang 14 (name one in CXX)" in said


@pytest.mark.parametrize("name, version", [("GNU", "11.1.0"), ("Clang", "14.0.0")])
def test_the_oldest_that_will_do_is_not(tmp_path, name, version):
    assert "avflow needs" not in configure(tmp_path, name, version)
