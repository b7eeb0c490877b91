"""The forms of the attention kernels and of the merge side by side, on a CUDA device, bf16.

    python benchmarks cuda/forms [--json FILE] [--each 0.4] [--seconds 60]

AVFLOW_FORM of csrc/cuda/call.h says what each is. A small library of each is compiled with nvcc from this checkout's
sources, and all are timed in turns in this process, which takes about a minute. Of the kernel of sm_80 there are one
loop, a branch-free body for tiles without a mask, and the tall kernel: any device runs them, the others only one of
compute capability 9.0. cuDNN's kernel, or flash beside those of sm_80, is there where nothing is cut, and the kernel of
sm_80 where rows are few. Claim: each form is faster than the one before it, and all agree. Not measured yet.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from avflow_ext import AttentionProblem, Cut
from benchmarks.cuda.attention import SHAPES, operands
from benchmarks.lib.device import BACKENDS
from benchmarks.lib.graphs import captured
from benchmarks.lib.layouts import AUDIO, QUESTION, VIDEO, VIDEO_TO_QUESTION, av_tokens, one_row
from benchmarks.lib.operands import Operands
from benchmarks.lib.report import Report
from benchmarks.lib.timing import best_times

ROOT = Path(__file__).resolve().parents[2]
FORMS = {"one loop": 0, "branch-free": 1, "words apart": 3, "pairs": 2}  # the third: in use; keys split from it on
OF_HOPPER = ("words apart", "pairs")  # other kernels are alike in these
OF_SM80 = {"one loop": ("one loop", "cuda"), "branch-free": ("branch-free", "cuda"), "tall": ("branch-free", "tall")}
DECODE_KEYS, DECODE_CALLS = 16384, 20
FEW_ROWS, FEW_ROWS_KEYS = (128, 512), 16384  # 1,024 and 4,096 rows x heads of a kv head of the 3B
CUTS = {
    "no cuts": [],
    "video -> question": [VIDEO_TO_QUESTION],
    "video -> audio": [Cut(1 << VIDEO, 1 << AUDIO)],
    "half of video -> question": [Cut(1 << VIDEO, 1 << QUESTION, random_share=0.5)],
    "half of all": [Cut(31, 31, random_share=0.5)],  # every tile has words
}


class Arguments(ctypes.Structure):
    """AvflowAttention of csrc/kernels.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "lse", "group_mass", "problem", "row_order")]
        + [(name, ctypes.c_int64) for name in ("q_row", "q_head")]
        + [(name, ctypes.c_int64) for name in ("k_batch", "k_row", "k_head", "v_batch", "v_row", "v_head")]
        + [(name, ctypes.c_int32) for name in ("capacity", "slots", "heads", "kv_heads", "head_dim", "dtype")]
        + [("scale", ctypes.c_float), ("workers", ctypes.c_int32)]
        + [(name, ctypes.c_void_p) for name in ("parallel", "parallel_context", "workspace")]
    )


def runs_hopper(capability: tuple[int, int]) -> bool:
    return capability == (9, 0)


def forms(capability: tuple[int, int]) -> dict[str, int]:
    """Those that a device of that compute capability runs."""
    return {name: form for name, form in FORMS.items() if name not in OF_HOPPER or runs_hopper(capability)}


def commands(nvcc: str, form: int, folder: Path, capability: tuple[int, int] = (9, 0)) -> list[list[str]]:
    """What compiles the form's sources, then what links them into folder/form.so."""
    own = "".join(map(str, capability))
    archs = {"hopper": "90a"} if runs_hopper(capability) else {}  # of csrc/cuda/NAME.cu
    archs |= {"attention": own, "tall": own}
    hopper = ["-DAVFLOW_HAVE_HOPPER"] if "hopper" in archs else []
    objects = {name: folder / f"{name}{form}.o" for name in archs}
    found = []
    for name, arch in archs.items():
        source = str(ROOT / "csrc" / "cuda" / f"{name}.cu")
        found.append(
            [nvcc, "-std=c++20", "-O3", "-DNDEBUG", f"-DAVFLOW_FORM={form}", *hopper, "-Xcompiler=-fPIC"]
            + ["-I", str(ROOT / "csrc"), f"-gencode=arch=compute_{arch},code=sm_{arch}"]
            + ["-c", "-o", str(objects[name]), source]
        )
    return [*found, [nvcc, "-shared", "-o", str(folder / f"form{form}.so"), *map(str, objects.values())]]


def build(nvcc: str, folder: Path, capability: tuple[int, int]) -> dict[str, ctypes.CDLL]:
    """{form: its library}, compiled next to one another."""
    named = forms(capability)
    steps = {name: commands(nvcc, form, folder, capability) for name, form in named.items()}
    with ThreadPoolExecutor() as pool:
        list(pool.map(run, [command for of_form in steps.values() for command in of_form[:-1]]))
    for of_form in steps.values():
        run(of_form[-1])
    found = {name: ctypes.CDLL(str(folder / f"form{form}.so")) for name, form in named.items()}
    for library in found.values():
        library.avflow_attention_cuda_workspace.restype = ctypes.c_int64
    return found


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-400:]}")


def call_of(library: ctypes.CDLL, case: Operands, problem: AttentionProblem, kernel: str) -> Callable[[], torch.Tensor]:
    """The library's attention on the current stream; gives [rows, heads, d], the same tensor each time.

    kernel: "hopper", "tall", or "cuda" for the one whose parts are merged.
    """
    q, k, v = case.q, case.k, case.v
    heads, kv_heads, d = q.shape[1], k.shape[1], q.shape[2]
    host = problem.packed(heads // kv_heads, "renormalize", "cuda" if kernel == "cuda" else "hopper")
    held, out = host.to(q.device), torch.empty_like(q)
    arguments = Arguments(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        out=out.data_ptr(),
        problem=held.data_ptr(),
        q_row=q.stride(0),
        q_head=q.stride(1),
        k_row=k.stride(0),
        k_head=k.stride(1),
        v_row=v.stride(0),
        v_head=v.stride(1),
        capacity=len(k),
        slots=len(k),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=d,
        dtype=1,
        scale=d**-0.5,
    )
    on_host = ctypes.c_void_p(host.data_ptr())
    size = library.avflow_attention_cuda_workspace(ctypes.byref(arguments), on_host)
    workspace = torch.empty(size + 64, dtype=torch.uint8, device=q.device)
    arguments.workspace = workspace.data_ptr()

    def attend(held: object = (host, held, workspace, q, k, v)) -> torch.Tensor:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        library.avflow_force_tall(kernel == "tall")
        status = library.avflow_attention_cuda(ctypes.byref(arguments), on_host, stream)
        if status:
            raise RuntimeError(f"CUDA error {status}")
        return out

    return attend


def largest_difference(outs: dict[str, torch.Tensor]) -> float:
    """Between the forms' results, which may round differently.

    Raises:
        RuntimeError: they do not agree to what bfloat16 resolves.
    """
    first = next(iter(outs.values())).float()
    worst = 0.0
    for name, out in outs.items():
        apart = (out.float() - first).abs()
        if not bool((apart <= 0.02 + 0.02 * first.abs()).all()):  # NaN is caught as well
            raise RuntimeError(f"{name} differs by {float(apart.max()):.1e} from {next(iter(outs))}")
        worst = max(worst, float(apart.max()))
    return worst


class Cases:
    """Times the forms on a case each, prints it, and keeps it in the report's file."""

    def __init__(self, report: Report, libraries: dict[str, ctypes.CDLL], seconds: float) -> None:
        """seconds: of turns for each case."""
        self.report, self.libraries, self.seconds = report, libraries, seconds
        report.data["cases"] = {}

    def add(
        self, name: str, candidates: dict[str, Callable[[], object]], worst: float, flops: float, calls: int
    ) -> None:
        times, errors = best_times(candidates, self.seconds)
        seconds = {form: time / calls for form, time in times.items()}
        found = {"seconds": seconds, "errors": errors, "largest_difference": worst}
        if flops:
            found["tflops"] = {form: flops / time / 1e12 for form, time in seconds.items()}
        self.report.data["cases"][name] = found
        print(f"{name}, largest difference {worst:.1e}")
        for form, time in seconds.items():
            rate = f"{flops / time / 1e12:6.0f} TFLOP/s" if flops else ""
            print(f"    {time * 1e6:10.1f} us {rate} {form}")
        self.report.save()

    def prefill(self, size: str, n: int, cuts: str) -> None:
        case, problem = operands(n, n, size), AttentionProblem(av_tokens(n), cuts=CUTS[cuts])
        calls = {form: call_of(library, case, problem, "hopper") for form, library in self.libraries.items()}
        worst = largest_difference({form: call().clone() for form, call in calls.items()})
        flops = 0.0 if CUTS[cuts] else 4.0 * SHAPES[size][2] * SHAPES[size][0] * n * (n + 1) / 2
        peers = {} if CUTS[cuts] else {"sdpa cuDNN": case.sdpa(backend=BACKENDS["cuDNN"])}
        self.add(f"{size}, {n} tokens, {cuts}", {**calls, **peers}, worst, flops, 1)

    def few_rows(self, rows: int) -> None:
        """The last rows of a prompt: the Hopper kernel without split keys and with them, and the other kernel."""
        case, tokens = operands(rows, FEW_ROWS_KEYS, "3B"), av_tokens(FEW_ROWS_KEYS)
        last = tokens.select(torch.arange(FEW_ROWS_KEYS - rows, FEW_ROWS_KEYS))
        problem = AttentionProblem(last, tokens)
        calls = {form: call_of(library, case, problem, "hopper") for form, library in self.libraries.items()}
        calls["kernel for sm_80"] = call_of(next(iter(self.libraries.values())), case, problem, "cuda")
        worst = largest_difference({form: call().clone() for form, call in calls.items()})
        self.add(f"3B, the last {rows} of {FEW_ROWS_KEYS} tokens, no cuts", calls, worst, 0.0, 1)

    def prefill_by_sm80(self, size: str, n: int, cuts: str) -> None:
        """The kernels that every device runs."""
        case, problem = operands(n, n, size), AttentionProblem(av_tokens(n), cuts=CUTS[cuts])
        calls = {name: call_of(self.libraries[form], case, problem, kernel) for name, (form, kernel) in OF_SM80.items()}
        worst = largest_difference({name: call().clone() for name, call in calls.items()})
        flops = 0.0 if CUTS[cuts] else 4.0 * SHAPES[size][2] * SHAPES[size][0] * n * (n + 1) / 2
        peers = {} if CUTS[cuts] else {"sdpa flash": case.sdpa(backend=BACKENDS["flash"])}
        self.add(f"kernels of sm_80, {size}, {n} tokens, {cuts}", {**calls, **peers}, worst, flops, 1)

    def decode(self, size: str) -> None:
        """One row, as a CUDA graph of many calls."""
        case, problem = operands(1, DECODE_KEYS, size), one_row(DECODE_KEYS)
        graphs, outs = {}, {}
        for form, library in self.libraries.items():
            call = call_of(library, case, problem, "cuda")
            outs[form] = call().clone()
            graphs[form] = captured(lambda call=call: [call() for _ in range(DECODE_CALLS)])
        worst = largest_difference(outs)
        self.add(f"{size}, one row, {DECODE_KEYS} keys", graphs, worst, 0.0, DECODE_CALLS)


def find_nvcc() -> str:
    toolkit = runpy.run_path(str(ROOT / "tools" / "cuda_toolkit.py"))["find_toolkit"]()
    if toolkit is None:
        sys.exit("no nvcc was found to compile the forms with: name one with --nvcc")
    return toolkit.nvcc


@torch.inference_mode()
def measure(path: str | None, nvcc: str, each: float, seconds: float) -> int:
    """0 where every part ran and all forms agree."""
    report = Report("cuda", path, seconds)
    with tempfile.TemporaryDirectory() as folder:
        capability = torch.cuda.get_device_capability()
        libraries = report.step("build", lambda: build(nvcc, Path(folder), capability))
        if libraries:
            cases = Cases(report, libraries, each)
            prefills = {"": cases.prefill} if runs_hopper(capability) else {}
            prefills["sm_80 "] = cases.prefill_by_sm80
            for kernel, prefill in prefills.items():
                for size, n in (("3B", 4096), ("3B", 16384), ("7B", 8192)):
                    report.step(f"{kernel}{size} {n}", functools.partial(prefill, size, n, "no cuts"))
            for size in SHAPES:
                report.step(f"decode {size}", lambda size=size: cases.decode(size))
            for rows in FEW_ROWS if runs_hopper(capability) else ():
                report.step(f"last {rows}", functools.partial(cases.few_rows, rows))
            for kernel, prefill in prefills.items():
                for cuts in list(CUTS)[1:]:
                    report.step(f"{kernel}{cuts}", functools.partial(prefill, "3B", 8192, cuts))
    return report.finish()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--nvcc", help="the compiler (default: the one that setup.py finds)")
    parser.add_argument("--each", type=float, default=0.4, help="seconds of turns for each case")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all cases")
    args = parser.parse_args(arguments)
    return measure(args.json, args.nvcc or find_nvcc(), args.each, args.seconds)
