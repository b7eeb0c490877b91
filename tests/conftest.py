"""Shared fixtures. Tiny models are made once a session: they are read only, every context restores them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import left_behind
import pytest
import torch

from avflow.models.compat import declare_torchvision
from avflow_ext import capabilities
from avflow_ext._load import _C

# `make test` puts a torchvision there that is built for another torch; one that is installed goes first.
sys.path.append(str(Path(sys.prefix) / "foreign"))
declare_torchvision()  # before transformers: tests import it directly

if importlib.util.find_spec("hypothesis"):  # which the environment of tests/serving goes without
    import fuzzing

    fuzzing.repeat_examples()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models gain nothing from threads, and lose much where several tests share the cores."""
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Before the fixtures of any scope."""
    left_behind.seed()


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """Each test starts as if it were the first of its process: one that leaves a setting of ours changed has failed."""
    shared = [request.getfixturevalue(name) for name in ("omni", "qwen3") if name in request.fixturenames]
    remembered: list = [left_behind.Remembered(model) for model in shared]
    remembered.append(left_behind.Surroundings())
    before = left_behind.settings()
    yield
    for one in remembered:
        one.put_back()
    assert not (changed := left_behind.changes(before, left_behind.settings())), f"left behind: {changed}"


@pytest.fixture(scope="session")
def omni():
    """A wrapped Qwen2.5-Omni Thinker: 4 layers, 4 / 2 heads."""
    import tiny

    import avflow

    return avflow.wrap(tiny.thinker())


@pytest.fixture(scope="session")
def qwen3():
    """A wrapped text-only decoder: 4 layers, 4 / 2 heads, norms on q and k."""
    import tiny

    import avflow

    return avflow.wrap(tiny.decoder("qwen3"))


@pytest.fixture(params=capabilities()["cpu_built"])
def isa(request):
    """Each path that this build has and this processor runs."""
    before = _C.cpu_isa()
    try:
        _C.set_cpu_isa(request.param)
    except ValueError:
        pytest.skip(f"this processor does not run {request.param}")
    yield request.param
    _C.set_cpu_isa(before)


@pytest.fixture(scope="session")
def compiler() -> str:
    """That the emulator is compiled with."""
    compiler = shutil.which("g++")
    if not compiler or sys.platform != "linux":
        pytest.skip("the emulator needs Linux and g++")
    return compiler


@pytest.fixture(scope="session")
def emulated(compiler, tmp_path_factory):
    """The CUDA kernels compiled for the host, on the emulator in helpers: a library for a kernel's name."""
    import cuda_emulator

    path = cuda_emulator.build(compiler, tmp_path_factory.mktemp("emulator"))
    return lambda kernel: cuda_emulator.load(path, kernel)


@pytest.fixture(scope="session")
def sm80_library(emulated):
    """Attention by the kernel of sm_80."""
    return emulated("cuda")


@pytest.fixture(scope="session", params=["cuda", "tall", "hopper", "pairs"])
def library(request, emulated):
    """The same by each kernel."""
    return emulated(request.param)
