"""Each path of the CPU compiled by Clang, without a warning and of the instructions that its name promises."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What only this path has, and what it must not have: the processor it is chosen on may lack it.
CODE = {
    "portable": (r"\bmulps\b", r"%[yz]mm"),
    "avx2": (r"vfmadd\d+ps.*%ymm", r"%zmm"),
    "avx512": (r"vfmadd\d+ps.*%zmm", r"vdpbf16ps|tdpbf16ps"),
    "avx512_bf16": (r"vdpbf16ps.*%zmm", r"tdpbf16ps"),
    "amx": (r"tdpbf16ps", r"vdpbf16ps"),
}


def flags(isa: str) -> list[str]:
    """As CMakeLists.txt gives them; those of one may be part of another's."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.search(rf"set\(AVFLOW_FLAGS_{isa} (.*)\)", text).group(1).strip('"')
    return re.sub(r"\$\{AVFLOW_FLAGS_(\w+)\}", lambda m: " ".join(flags(m[1])), found).split()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these paths are x86-64's")
@pytest.mark.skipif(not shutil.which("clang++") or not shutil.which("objdump"), reason="needs clang++ and objdump")
@pytest.mark.parametrize("isa", CODE)
def test_a_path_is_what_its_name_says(tmp_path, isa):
    made = tmp_path / "path.o"
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]
    strict = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-DAVFLOW_ISA={isa}"]
    source = ROOT / "csrc" / "cpu" / "attention_isa.cpp"
    subprocess.run(["clang++", *strict, *include, *flags(isa), "-c", source, "-o", made], check=True)
    code = subprocess.run(["objdump", "-d", made], check=True, capture_output=True, text=True).stdout
    has, lacks = CODE[isa]
    assert re.search(has, code) and not re.search(lacks, code)
