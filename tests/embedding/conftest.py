"""What the tests of embedding build, once a session."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from consumers import ROOT, cmake, examples, ready, tool

import avflow_ext


@pytest.fixture(scope="session", params=[("gcc", "g++"), ("clang", "clang++")], ids=["gcc", "clang"])
def programs(request, tmp_path_factory) -> Path:
    """Built against the libraries of this installation."""
    c, cxx = (shutil.which(name) for name in request.param)
    if not c or not cxx:
        pytest.skip(f"{request.param[0]} is not installed")
    return examples(tmp_path_factory.mktemp("programs"), avflow_ext.get_cmake_dir(), CC=c, CXX=cxx)


@pytest.fixture(scope="session")
def static_install(tmp_path_factory) -> Path:
    """libavflow.a with its header and CMake package, installed from source as a C++ user does: no torch, no Python."""
    folder = tmp_path_factory.mktemp("static")
    quick = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O0 -g0")
    cmake(ROOT, folder / "build", "-DBUILD_SHARED_LIBS=OFF", *quick)
    ready(tool("cmake"), "--install", str(folder / "build"), "--prefix", str(folder / "installed"))
    return folder / "installed"


@pytest.fixture(scope="session")
def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
