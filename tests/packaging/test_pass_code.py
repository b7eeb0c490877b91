"""What the decoder's passes compile to: whole pieces are read and written, and no product runs into a sum."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from device_code import CSRC, compile_device_code, find_nvdisasm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from cuda_toolkit import find_toolkit  # noqa: E402


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    """Of each kernel of passes.cu, by its mangled name, for sm_90."""
    toolkit = find_toolkit()
    nvdisasm = toolkit and find_nvdisasm(toolkit.nvcc)
    if not nvdisasm:
        pytest.skip("no nvcc, or no nvdisasm, was found")
    cubin = tmp_path_factory.mktemp("passes") / "code"
    compile_device_code(toolkit.nvcc, CSRC / "cuda" / "passes.cu", "90", cubin)
    text = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    shutil.rmtree(cubin.parent)
    found = {}
    for part in text.split(".section\t.text.")[1:]:
        found[part.split(",")[0]] = re.findall(r"\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*)", part)
    return found


def test_wide_kernels_move_16_bytes_at_once(instructions):
    """2 pieces of q or k, and 4 of the tables, twice as long in float32; of SiLU's 2 rows one each."""
    wide = {name: code for name, code in instructions.items() if "Li8E" in name}
    assert len(wide) == 6 and len(instructions) == 12
    for name, code in wide.items():
        loads = [one for one in code if one.startswith("LDG")]
        assert set(loads) == {"LDG.E.128"} and {one for one in code if one.startswith("STG")} == {"STG.E.128"}, name
        assert len(loads) == (2 if "silu" in name else 10 if "Li8ELb1E" in name else 6), (name, loads)


def test_float32_tables_round_every_product(instructions):
    """transformers' towers multiply in one kernel and add in another: a fused multiply-add has other bits."""
    once = [code for name, code in instructions.items() if re.search(r"rotaryILb\dELi\dELb1E", name)]
    assert len(once) == 4
    for code in once:
        assert not any(one.startswith("FFMA") for one in code)
        assert any(one.startswith("FADD") for one in code) and any(one.startswith("FMUL") for one in code)
