"""The CUDA side of the build on a machine without a GPU: which nvcc is taken, what is linked, what torch can trace."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from binaries import LIBAVFLOW, dynamic, foreign, library, products
from op_cases import qkv, rich_problem

from avflow_ext import AttentionProblem, Streams, Tokens, attention, capabilities, device
from avflow_ext._load import _C
from avflow_ext.device import DeviceCopy, arch_for, check_cuda

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from cuda_toolkit import ARCHS, choose_archs, find_toolkit  # noqa: E402

built_with_cuda = pytest.mark.skipif(_C.cuda() is None, reason="this build has no CUDA kernels: no nvcc was found")


# ---------------------------------------------------------------- which nvcc


def fake_nvcc(folder: Path, top: Path | None = None, version: str = "13.0") -> Path:
    """A script that answers as nvcc does to the three questions it is asked; with `top`, as a wrapper of that one."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f'--dryrun) echo "#$ TOP={top or folder}/bin/.." >&2 ;;\n'
        f'--version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;\n'
        "--list-gpu-arch) for n in 75 80 86 90 100 120; do echo compute_$n; done ;;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    return nvcc


@pytest.fixture
def no_default(monkeypatch):
    """Without the toolkit that this machine may have in /usr/local/cuda."""
    import cuda_toolkit

    found = cuda_toolkit.candidates
    monkeypatch.setattr(
        cuda_toolkit, "candidates", lambda *a: (c for c in found(*a) if not c[1].startswith("/usr/local/cuda"))
    )


def test_nvcc_is_looked_for_in_this_order(tmp_path, no_default):
    """CUDACXX, CUDA_HOME, PATH, then the PyPI toolchain: each is taken once those before it are gone."""
    names = ("cudacxx", "home", "path", "site/nvidia/cu13")
    nvcc = {name: fake_nvcc(tmp_path / name) for name in names}
    env = {
        "CUDACXX": str(nvcc["cudacxx"]),
        "CUDA_HOME": str(tmp_path / "home"),
        "PATH": f"{tmp_path / 'path/bin'}:/usr/bin:/bin",
    }
    for name, variable in zip(names, (*env, None), strict=True):
        assert find_toolkit(env, [str(tmp_path / "site")]).nvcc == str(nvcc[name])
        if variable:
            env[variable] = "/usr/bin:/bin" if variable == "PATH" else ""
    assert find_toolkit(env, []) is None


def test_a_toolkit_in_the_usual_place_comes_before_the_package(tmp_path):
    from cuda_toolkit import candidates

    fake_nvcc(tmp_path / "nvidia/cu13")
    places = [path for _, path in candidates({"PATH": "/nowhere"}, [str(tmp_path)])]
    assert places == ["/usr/local/cuda/bin/nvcc", str(tmp_path / "nvidia/cu13/bin/nvcc")]


def test_a_wrapper_script_is_resolved(tmp_path, no_default):
    real = fake_nvcc(tmp_path / "toolkit")
    fake_nvcc(tmp_path / "wrapper", top=tmp_path / "toolkit")
    env = {"PATH": f"{tmp_path / 'wrapper/bin'}:/usr/bin:/bin"}
    assert find_toolkit(env, []).nvcc == str(real)


def test_an_nvcc_that_does_not_run_is_passed_over(tmp_path, no_default):
    """What lies in CUDA_HOME may be a toolkit of another machine, or a script without one behind it."""
    fake_nvcc(tmp_path / "broken", top=tmp_path / "gone")
    good = fake_nvcc(tmp_path / "good")
    env = {"CUDA_HOME": str(tmp_path / "broken"), "PATH": f"{tmp_path / 'good/bin'}:/usr/bin:/bin"}
    assert find_toolkit(env, []).nvcc == str(good)


def test_no_nvcc_is_said_in_one_line(no_default, capsys):
    assert find_toolkit({"PATH": "/nowhere"}, []) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "CPU part only" in said


@pytest.mark.parametrize(
    "env, text",
    [
        ({"AVFLOW_CUDA": "1"}, "AVFLOW_CUDA=1"),
        ({"CUDACXX": "/nowhere/nvcc"}, "CUDACXX=/nowhere/nvcc"),
        ({"AVFLOW_CUDA": "yes please"}, "yes please"),
    ],
)
def test_what_stops_the_build(env, text, no_default):
    with pytest.raises(SystemExit, match=re.escape(text)):
        find_toolkit({"PATH": "/nowhere", **env}, [])


def test_cuda_can_be_left_out(tmp_path, capsys):
    nvcc = fake_nvcc(tmp_path)
    assert find_toolkit({"AVFLOW_CUDA": "0", "CUDACXX": str(nvcc), "PATH": "/usr/bin:/bin"}, []) is None
    assert capsys.readouterr().err.count("\n") == 1


def test_architectures():
    everything = {75, 80, 86, 90, 100, 120}
    assert choose_archs("", everything) == ARCHS
    assert choose_archs("", {75, 80, 86, 90}) == ("80-real", "90-real", "80-virtual")  # CUDA 12.4
    assert choose_archs("80", everything) == ("80-real",)
    assert choose_archs("sm_90, compute_80;120-virtual 90", everything) == ("90-real", "80-virtual", "120-virtual")
    for unknown in ("75", "103", "hopper"):
        with pytest.raises(SystemExit, match=unknown):
            choose_archs(unknown, everything)


def test_code_for_a_device():
    """Machine code runs on its own number and later ones of its tens; PTX on anything later."""
    archs = " ".join(ARCHS)
    pairs = {(8, 0): "sm80", (8, 6): "sm80", (9, 0): "sm90", (10, 3): "sm100", (12, 1): "sm120", (11, 0): "ptx80"}
    assert {capability: arch_for(capability, archs) for capability in pairs} == pairs
    assert arch_for((7, 5), archs) is None
    assert arch_for((9, 0), "80-real") is None


# ---------------------------------------------------------------- the module


@built_with_cuda
def test_the_runtime_is_inside():
    needed = [name for path in products().values() for name in dynamic(path, "NEEDED")]
    assert foreign(needed) == []
    assert not [name for name in needed if "cuda" in name or "nv" in name]
    assert Path(library(LIBAVFLOW)).stat().st_size > 2**20  # one copy of the kernels: in the library alone
    assert all(Path(path).stat().st_size < 2**20 for name, path in products().items() if name != "libavflow")


@built_with_cuda
def test_import_and_queries_without_a_device():
    """CUDA_VISIBLE_DEVICES hides a device that this machine may have."""
    code = (
        "import avflow_ext, torch\n"
        "from avflow_ext import _C\n"
        "found, cuda = _C.cuda(), avflow_ext.capabilities()['cuda']\n"
        "assert found['devices'] == 0 and found['error'] and found['archs'], found\n"
        "assert cuda['path'] is None and cuda['devices'] == [] and cuda['why'], cuda\n"
    )
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@built_with_cuda
def test_compiled_archs():
    archs = capabilities()["cuda"]["archs"]
    assert archs and all(re.fullmatch(r"\d+-(real|virtual)", arch) for arch in archs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a device")
def test_without_a_device_the_reason_is_named():
    """Doctor says it, and so does the op; a fake tensor stands for one on a device that is not there."""
    from avflow.cli.doctor import examine
    from avflow.models.attention import kernel_name

    said = examine()["kernels"]["cuda"]
    assert said.startswith("not used: ") and re.search("nvcc|not a CUDA build|sees no CUDA device", said)
    assert kernel_name(torch.device("cuda")) == "cuda-none"
    problem = AttentionProblem(Tokens([0, 1, 2, 3], [0] * 4))
    with torch._subclasses.FakeTensorMode():
        q = torch.empty(4, 2, 64, device="cuda:0", dtype=torch.bfloat16)
        with pytest.raises(NotImplementedError, match="without CUDA|not a CUDA build|sees no CUDA device"):
            attention(q, q, q, problem)


@pytest.mark.parametrize(
    "dtype, d, error, text",
    [
        (torch.float32, 64, TypeError, "float32.*bfloat16 and float16"),
        (torch.float16, 32, ValueError, "32.*64 and 128"),
    ],
)
def test_what_the_kernels_do_not_take(dtype, d, error, text, monkeypatch):
    monkeypatch.setattr("avflow_ext.device.why_not_cuda", lambda index: None)
    with torch._subclasses.FakeTensorMode(), pytest.raises(error, match=text):
        check_cuda(torch.empty(4, 2, d, device="cuda:0", dtype=dtype))


# ---------------------------------------------------------------- tracing, with tensors that claim to be on a device


def fake_inputs(mode, heads: int = 8, kv_heads: int = 2, d: int = 64):
    """The op's arguments, as fake tensors: q, k, v and the problem's copy on cuda:0, the problem on the CPU."""
    problem = rich_problem()
    packed = problem.packed(heads // kv_heads, device_type="cuda")
    tensors = [t.bfloat16() for t in qkv(problem, heads, kv_heads, d)]
    with mode:
        q, k, v = (torch.empty(t.shape, dtype=t.dtype, device="cuda:0") for t in tensors)
        host = mode.from_tensor(packed)
        copy = torch.empty(packed.shape, dtype=packed.dtype, device="cuda:0")
    return problem, (q, k, v, host, 0.125, len(problem.rows), problem.groups, True, copy)


def test_fake_cuda_tensors():
    mode = torch._subclasses.FakeTensorMode()
    problem, args = fake_inputs(mode)
    with mode:
        out, lse, mass = torch.ops.avflow.attention(*args)
    rows = len(problem.rows)
    assert out.shape == (rows, 8, 64) and out.dtype == torch.bfloat16
    assert lse.shape == (rows, 8) and mass.shape == (rows, 8, problem.groups)
    assert all(t.device == torch.device("cuda:0") for t in (out, lse, mass))


def test_fullgraph_compile_with_fake_cuda_tensors():
    mode = torch._subclasses.FakeTensorMode()
    problem, args = fake_inputs(mode)
    compiled = torch.compile(lambda *a: torch.ops.avflow.attention(*a)[0] * 2, fullgraph=True, backend="aot_eager")
    with mode:
        out = compiled(*args)
    assert out.shape == (len(problem.rows), 8, 64) and out.device.type == "cuda"


def test_fullgraph_compile_of_the_wrapper_with_fake_cuda_tensors(monkeypatch):
    """Once the problem is packed and uploaded, nothing in `attention` breaks the graph."""
    mode = torch._subclasses.FakeTensorMode()
    problem, (q, k, v, host, *_, copy) = fake_inputs(mode)
    uploaded = DeviceCopy.__new__(DeviceCopy)
    uploaded.tensor = copy
    problem._packed[4, "renormalize", "cuda"] = host
    problem._copies[4, "renormalize", 0] = uploaded
    monkeypatch.setitem(device._hopper, 0, False)  # asked when it was uploaded
    compiled = torch.compile(lambda *a: attention(*a).out * 2, fullgraph=True, backend="aot_eager")
    with mode:
        out = compiled(q, k, v, problem)
    assert out.shape == (len(problem.rows), 8, 64) and out.device.type == "cuda"


def test_fullgraph_compile_of_a_decode_step_with_fake_cuda_tensors():
    """A cache by slot, not all of it held, and orders on the device."""
    keys = Tokens(torch.arange(300).repeat(2), [0] * 600, None, torch.arange(2).repeat_interleave(300))
    rows = Tokens([100, 100], [0, 0], None, [0, 1])
    problem = AttentionProblem(rows, keys, Streams.roots(2), latest_order=299)
    packed = problem.packed(4, device_type="cuda")
    mode = torch._subclasses.FakeTensorMode()
    with mode:
        q = torch.empty(2, 8, 64, dtype=torch.bfloat16, device="cuda:0")
        k = torch.empty(2, 2, 200, 64, dtype=torch.bfloat16, device="cuda:0").transpose(1, 2)
        order = torch.empty(2, dtype=torch.int32, device="cuda:0")
        uploaded = DeviceCopy.__new__(DeviceCopy)
        uploaded.tensor = torch.empty(packed.shape, dtype=packed.dtype, device="cuda:0")
        problem._packed[4, "renormalize", "cuda"] = mode.from_tensor(packed)
        problem._copies[4, "renormalize", 0] = uploaded
        step = torch.compile(
            lambda q, k, v, order: attention(q, k, v, problem, row_order=order).out * 2,
            fullgraph=True,
            backend="aot_eager",
        )
        out = step(q, k, k, order)
    assert out.shape == (2, 8, 64) and out.device.type == "cuda"


def test_the_operator_with_a_copy_of_the_problem_passes_opcheck():
    """On the CPU the copy is there and not read."""
    problem = rich_problem()
    q, k, v = qkv(problem, 8, 2, 64)
    packed = problem.packed(4)
    args = (q, k, v, packed, 0.2, len(problem.rows), problem.groups, True, packed.clone())
    torch.library.opcheck(torch.ops.avflow.attention.default, args)


def test_plans_of_the_devices_are_kept_apart():
    problem = rich_problem()
    assert problem.packed(4) is problem.packed(4, device_type="cpu")
    assert problem.packed(4, device_type="cuda") is problem.packed(4, device_type="cuda")
    plans = [problem.packed(4, device_type=kernel) for kernel in ("cpu", "cuda", "hopper")]
    assert len({len(plan) for plan in plans}) == 3  # planned for tiles of other heights
    with pytest.raises(ValueError, match="no kernel named sm90"):
        problem.packed(4, device_type="sm90")
