"""libavflow under ThreadSanitizer, and under AddressSanitizer with UndefinedBehaviorSanitizer: `make sanitize`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from consumers import ROOT, cmake, ready

FLAGS = {"thread": "-fsanitize=thread", "address": "-fsanitize=address,undefined -fno-sanitize-recover=all"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.environ.get("AVFLOW_SANITIZE"), reason="it compiles libavflow twice: `make sanitize` asks")
@pytest.mark.parametrize("sanitizer", FLAGS)
def test_nothing_is_found(sanitizer, tmp_path):
    compiler = shutil.which("g++")
    if not compiler:
        pytest.skip("g++ is not installed")
    flags = f"-O1 -g {FLAGS[sanitizer]}"
    settings = ("-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_CXX_FLAGS={flags}")
    cmake(ROOT, tmp_path / "build", *settings, CXX=compiler)
    program, source = tmp_path / "sanitized", Path(__file__).with_name("sanitized.cpp")
    library = str(tmp_path / "build/libavflow.a")
    include = f"-I{ROOT / 'csrc/include'}"
    ready(compiler, "-std=c++17", *flags.split(), include, str(source), library, "-pthread", "-o", str(program))
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr[-4000:]
    assert "portable: 0 wrong" in done.stdout
