"""The three compiled files: what each links to, what it lets out, and that operators lie in exactly one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from binaries import LIBAVFLOW, TORCH, asked_for, dynamic, exported, foreign, library, products, run

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "csrc/include/avflow/avflow.h").read_text()
DECLARED = set(re.findall(r"^AVFLOW_API [^(]*?\b(avflow_\w+)\(", HEADER, re.MULTILINE))
VERSION = re.search(r'AVFLOW_VERSION_STRING "([\d.]+)"', HEADER).group(1)
KERNELS = set(re.findall(r"\b(avflow_\w+)\(", (ROOT / "csrc/kernels.h").read_text()))


@pytest.mark.parametrize("name", products())
def test_no_product_links_to_what_a_machine_may_lack(name):
    """Of torch, the CPU libraries of its stable ABI; of CUDA, nothing."""
    path = products()[name]
    needed = dynamic(path, "NEEDED")
    assert foreign(needed) == []
    assert (set(TORCH) & set(needed) != set()) == (name == "libavflow_torch")
    assert (LIBAVFLOW in needed) == (name != "libavflow")
    paths = dynamic(path, "RUNPATH") + dynamic(path, "RPATH")
    assert paths == {"libavflow": [], "libavflow_torch": ["$ORIGIN"], "_C": ["$ORIGIN/lib"]}[name]


@pytest.mark.parametrize("name", products())
def test_no_product_needs_a_libgcc_newer_than_the_oldest_supported_compiler(name):
    """Where the build's compiler is newer than the machine's: conversions of _Float16 would ask for GCC_12.0.0."""
    versions = re.findall(r"Name: GCC_(\d+)", run("readelf", "-V", products()[name]))
    assert all(int(version) <= 4 for version in versions)


def test_libavflow_lets_out_its_interface_and_what_this_version_shares():
    symbols = exported(library(LIBAVFLOW))
    public = {name.split("@")[0] for name in symbols if name.endswith("@AVFLOW_1")}
    private = {name.split("@")[0] for name in symbols if name.endswith(f"@AVFLOW_PRIVATE_{VERSION}")}
    assert public == DECLARED and len(DECLARED) > 10
    assert len(public) + len(private) == len(symbols)
    assert {"avflow_attention_cpu", "avflow_cpu_isa"} <= private <= KERNELS
    assert dynamic(library(LIBAVFLOW), "SONAME") == [LIBAVFLOW]


def test_libavflow_needs_no_library_but_cs():
    """No libstdc++ either: a C program has none, or an older one."""
    needed = dynamic(library(LIBAVFLOW), "NEEDED")
    assert not [name for name in needed if "stdc++" in name or "gcc_s" in name]


def test_operators_let_nothing_out_and_use_only_the_stable_abi():
    path = library("libavflow_torch.so")
    assert exported(path) == set()
    symbols = asked_for(path)
    assert "aoti_torch_library_init_def" in symbols
    assert [name for name in symbols if re.match(r"_ZNK?(2at|3c10|5torch)", name)] == []


@pytest.mark.parametrize("name", products())
def test_only_the_module_knows_python_and_only_the_operators_know_torch(name):
    symbols = asked_for(products()[name])
    assert any(re.match(r"_?Py", symbol) for symbol in symbols) == (name == "_C")
    assert any("torch" in symbol for symbol in symbols) == (name == "libavflow_torch")


def test_the_module_lets_out_only_its_entry_point():
    assert exported(products()["_C"]) == {"PyInit__C"}


def test_the_header_has_the_packages_version():
    import avflow

    assert avflow.__version__.split(".dev")[0] == VERSION
    number = int(re.search(r"AVFLOW_VERSION (0x\w+)", HEADER).group(1), 16)
    assert f"{number >> 16}.{number >> 8 & 255}.{number & 255}" == VERSION


# ---------------------------------------------------------------- two builds in one process


@pytest.fixture(scope="module")
def second_build(tmp_path_factory) -> str:
    """The same libraries in another folder."""
    folder = tmp_path_factory.mktemp("second") / "lib"
    shutil.copytree(Path(library(LIBAVFLOW)).parent, folder)
    return str(folder / "libavflow_torch.so")


def python(code: str) -> subprocess.CompletedProcess:
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    return subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True)


USE = """
from avflow_ext import AttentionProblem, Tokens, attention
q = torch.ones(3, 2, 8)
assert attention(q, q, q, AttentionProblem(Tokens([0, 1, 2], [0] * 3))).out.shape == q.shape
print("works")
"""


def test_a_second_build_that_comes_later_is_told_so_and_changes_nothing(second_build):
    done = python(f"import torch, avflow_ext; torch.ops.load_library({second_build!r})" + USE)
    assert done.returncode == 0 and done.stdout == "works\n", done.stderr
    assert "registered in this process already" in done.stderr and "load one of them only" in done.stderr


def test_a_second_build_that_came_first_is_an_import_error(second_build):
    done = python(f"import torch; torch.ops.load_library({second_build!r}); import avflow_ext")
    assert done.returncode == 1
    assert "ImportError: the operators torch.ops.avflow.* are registered already, by another build" in done.stderr


def test_the_same_library_may_be_loaded_twice():
    path = library("libavflow_torch.so")
    done = python(f"import torch; torch.ops.load_library({path!r}); torch.ops.load_library({path!r})" + USE)
    assert done.returncode == 0 and done.stdout == "works\n" and "already" not in done.stderr, done.stderr


def test_packing_needs_no_torch():
    """The module beside its library, by itself."""
    module = products()["_C"]
    done = python(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('_C', {module!r})\n"
        "_C = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(_C)\n"
        "assert _C.tile_rows(1) > 1 and 'torch' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr
