"""Compiles the CUDA kernels for the host, on the emulator in this folder, and calls them with torch tensors."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch

from avflow_ext import AttentionOutput, AttentionProblem

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
DTYPES = {torch.bfloat16: 1, torch.float16: 2}
BEHIND = 1234.5  # stands behind the workspace
FORMS = {"hopper": 0, "pairs": 1, "tall": 2}  # of a plan of large tiles, as emulator.cpp numbers their kernels
SCHEDULES = 3  # in step; first warp ahead; last warp ahead; each number from here on draws warps at random


class Args(ctypes.Structure):
    """AvflowAttention of csrc/kernels.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "lse", "group_mass", "problem", "row_order")]
        + [(name, ctypes.c_int64) for name in ("q_row", "q_head")]
        + [(name, ctypes.c_int64) for name in ("k_batch", "k_row", "k_head", "v_batch", "v_row", "v_head")]
        + [(name, ctypes.c_int32) for name in ("capacity", "slots", "heads", "kv_heads", "head_dim", "dtype")]
        + [("scale", ctypes.c_float), ("workers", ctypes.c_int32)]
        + [(name, ctypes.c_void_p) for name in ("parallel", "parallel_context", "workspace")]
    )


class GatherArgs(ctypes.Structure):
    """AvflowGatherRmsNorm of csrc/kernels.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("x", "residual", "weight", "keep", "kept", "normed")]
        + [(name, ctypes.c_int64) for name in ("n", "m", "width", "x_row", "residual_row")]
        + [("eps", ctypes.c_float), ("dtype", ctypes.c_int32), ("workers", ctypes.c_int32)]
        + [(name, ctypes.c_void_p) for name in ("parallel", "parallel_context")]
    )


class RotaryArgs(ctypes.Structure):
    """AvflowRotary of csrc/kernels.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("q", "k", "cos", "sin", "q_out", "k_out")]
        + [(name, ctypes.c_int64) for name in ("rows", "q_row", "q_head", "k_row", "k_head", "cos_row", "sin_row")]
        + [(name, ctypes.c_int32) for name in ("heads", "kv_heads", "head_dim", "dtype", "table_dtype", "workers")]
        + [(name, ctypes.c_void_p) for name in ("parallel", "parallel_context")]
    )


class SiluMulArgs(ctypes.Structure):
    """AvflowSiluMul of csrc/kernels.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("gate", "up", "out")]
        + [(name, ctypes.c_int64) for name in ("rows", "width", "gate_row", "up_row")]
        + [(name, ctypes.c_int32) for name in ("dtype", "workers")]
        + [(name, ctypes.c_void_p) for name in ("parallel", "parallel_context")]
    )


class CompactArgs(ctypes.Structure):
    """AvflowCompact of csrc/kernels.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("x", "keep", "out")]
        + [(name, ctypes.c_int64) for name in ("batch", "heads", "n", "m")]
        + [(name, ctypes.c_int64) for name in ("row_bytes", "x_batch", "x_head", "x_token")]
        + [("workers", ctypes.c_int32)]
        + [(name, ctypes.c_void_p) for name in ("parallel", "parallel_context")]
    )


class Alone(NamedTuple):
    """What a build has where it has no more: one kernel at one head_dim, for bfloat16."""

    kernel: str  # "hopper", "pairs", "tall", "attend" or "few", or "gather"; the merge comes with those of attention
    head_dim: int = 64


def build(
    compiler: str,
    folder: Path,
    first: Path = HERE,
    ordering: bool = False,
    form: int | None = None,
    alone: Alone | None = None,
) -> Path:
    """Compiles the emulator; a few seconds, a second for a kernel alone.

    Sources in the folder `first` take the place of the kernels' own. ordering: accesses to shared memory that nothing
    sorts are errors (ordering.h); bfloat16 alone. form: AVFLOW_FORM of csrc/cuda/call.h (default: the one in use).
    """
    library = folder / "emulator.so"
    flags = ["-std=c++20", "-O1" if alone else "-O2", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra"]
    flags += ["-DEMULATE_BF16_ALONE"] if ordering else []
    if alone:
        flags += [f"-DEMULATE_ALONE=k{alone.kernel.title()}", f"-DEMULATE_DEPTH={alone.head_dim}"]
    flags += [] if form is None else [f"-DAVFLOW_FORM={form}"]
    flags += ["-Wno-unknown-pragmas", f"-I{first}", f"-I{HERE}", f"-I{CSRC}"]
    source, sources = HERE / "emulator.cpp", [HERE / "emulator.cpp"]
    if ordering:
        flags += ["-DEMULATE_ORDERING"]
        instrumented = folder / "emulator.o"
        callbacks = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"]
        # Not inlined, a function that returns a struct writes it to its caller's place, and that is not instrumented.
        callbacks += ["-DAVFLOW_HD=static inline __attribute__((always_inline))"]
        subprocess.run([compiler, *flags, *callbacks, "-c", str(source), "-o", str(instrumented)], check=True)
        sources = [instrumented, HERE / "ordering.cpp"]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(library)], check=True)
    return library


def broken(compiler: str, folder: Path, alone: Alone, file: str, old: str, new: str) -> ctypes.CDLL:
    """A kernel whose source `file` of csrc/cuda has `new` where `old` stands; whole where both are one."""
    source = (CSRC / "cuda" / file).read_text()
    assert source.count(old) == 1, old
    (folder / "cuda").mkdir()
    (folder / "cuda" / file).write_text(source.replace(old, new))
    return load(build(compiler, folder, first=folder, alone=alone), alone.kernel if alone.kernel in FORMS else "cuda")


def load(library: Path, kernel: str) -> ctypes.CDLL:
    """kernel: that `attention` runs: "cuda", for sm_80 and later, "tall", its form for many rows, "hopper", or "pairs",
    the latter's other form.
    """
    loaded = ctypes.CDLL(str(library))
    loaded.emulated_workspace.restype = ctypes.c_int64
    loaded.emulated_few_split_tiles.restype = ctypes.c_int64
    loaded.emulated_few_split_tiles.argtypes = [ctypes.c_int64] * 3
    loaded.emulated_error.restype = ctypes.c_char_p
    loaded.kernel = kernel
    return loaded


def attention(
    library: ctypes.CDLL,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    problem: AttentionProblem,
    scale: float | None = None,
    semantics: str = "renormalize",
    return_lse: bool = False,
    return_group_mass: bool = False,
    row_order: torch.Tensor | None = None,
    schedule: int = 0,
) -> tuple[AttentionOutput, int]:
    """`avflow_ext.attention` by the library's kernel, and into how many parts the keys were split."""
    if k.dim() == 3:
        k, v = k[None], v[None]  # [batch, slots, kv_heads, d]
    heads, kv_heads, d = q.shape[1], k.shape[2], q.shape[2]
    packed = problem.packed(heads // kv_heads, semantics, "cuda" if library.kernel == "cuda" else "hopper")
    rows = len(problem.rows)
    out = torch.full((rows, heads, d), torch.nan, dtype=q.dtype)  # what is not written shows
    lse = torch.full((rows, heads), torch.nan) if return_lse else None
    mass = torch.full((rows, heads, problem.groups), torch.nan) if return_group_mass else None
    args = Args(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        out=out.data_ptr(),
        lse=None if lse is None else lse.data_ptr(),
        group_mass=None if mass is None else mass.data_ptr(),
        problem=packed.data_ptr(),
        row_order=None if row_order is None else row_order.data_ptr(),
        q_row=q.stride(0),
        q_head=q.stride(1),
        k_batch=k.stride(0) if len(k) > 1 else 0,
        k_row=k.stride(1),
        k_head=k.stride(2),
        v_batch=v.stride(0) if len(v) > 1 else 0,
        v_row=v.stride(1),
        v_head=v.stride(2),
        capacity=max(problem.n_keys // k.shape[0], 1),
        slots=k.shape[1],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=d,
        dtype=DTYPES.get(q.dtype, 0),
        scale=d**-0.5 if scale is None else scale,
    )
    library.workspace_bytes = library.emulated_workspace(ctypes.byref(args))
    workspace = torch.full((library.workspace_bytes // 4 + 64,), torch.nan)
    workspace[-64:] = BEHIND
    args.workspace = workspace.data_ptr()
    status = library.emulated_attention(ctypes.byref(args), schedule, FORMS.get(library.kernel, 0))
    if status == 1:
        raise ValueError("not a call for the CUDA kernels")
    if status:
        raise RuntimeError(library.emulated_error().decode())
    if not (workspace[-64:] == BEHIND).all():
        raise RuntimeError("written behind the workspace")
    return AttentionOutput(out, lse, mass), library.emulated_splits(ctypes.byref(args))


def gather_rms_norm(library: ctypes.CDLL, x, weight, eps: float, keep, schedule: int = 0):
    """`avflow_ext.gather_rms_norm` by the CUDA kernel, and how many elements a thread read at once."""
    kept, normed = (torch.full((len(keep), x.shape[1]), torch.nan, dtype=x.dtype) for _ in range(2))
    args = GatherArgs(
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        keep=keep.data_ptr(),
        kept=kept.data_ptr(),
        normed=normed.data_ptr(),
        n=len(x),
        m=len(keep),
        width=x.shape[1],
        x_row=x.stride(0),
        eps=eps,
        dtype=DTYPES[x.dtype],
    )
    wide = ctypes.c_int32()
    if library.emulated_gather_rms_norm(ctypes.byref(args), schedule, ctypes.byref(wide)):
        raise RuntimeError(library.emulated_error().decode())
    return (kept, normed), wide.value


def rms_norm(library: ctypes.CDLL, x, residual, weight, eps: float, schedule: int = 0):
    """`avflow_ext.add_rms_norm` by the CUDA kernel; None: no sum, `rms_norm`. And the elements read at once."""
    total = None if residual is None else torch.full(x.shape, torch.nan, dtype=x.dtype)
    normed = torch.full(x.shape, torch.nan, dtype=x.dtype)
    args = GatherArgs(
        x=x.data_ptr(),
        residual=None if residual is None else residual.data_ptr(),
        weight=weight.data_ptr(),
        kept=None if total is None else total.data_ptr(),
        normed=normed.data_ptr(),
        n=len(x),
        m=len(x),
        width=x.shape[1],
        x_row=x.stride(0),
        residual_row=0 if residual is None else residual.stride(0),
        eps=eps,
        dtype=DTYPES[x.dtype],
    )
    wide = ctypes.c_int32()
    if library.emulated_gather_rms_norm(ctypes.byref(args), schedule, ctypes.byref(wide)):
        raise RuntimeError(library.emulated_error().decode())
    return (total, normed), wide.value


def rotary(library: ctypes.CDLL, q, k, cos, sin):
    """`avflow_ext.rotary` by the CUDA kernel, and how many elements a thread read at once."""
    out = [torch.full(x.shape, torch.nan, dtype=x.dtype) for x in (q, k)]
    args = RotaryArgs(
        q=q.data_ptr(),
        k=k.data_ptr(),
        cos=cos.data_ptr(),
        sin=sin.data_ptr(),
        q_out=out[0].data_ptr(),
        k_out=out[1].data_ptr(),
        rows=len(q),
        q_row=q.stride(0),
        q_head=q.stride(1),
        k_row=k.stride(0),
        k_head=k.stride(1),
        cos_row=cos.stride(0),
        sin_row=sin.stride(0),
        heads=q.shape[1],
        kv_heads=k.shape[1],
        head_dim=q.shape[2],
        dtype=DTYPES[q.dtype],
        table_dtype={**DTYPES, torch.float32: 0}[cos.dtype],
    )
    wide = ctypes.c_int32()
    if library.emulated_rotary(ctypes.byref(args), ctypes.byref(wide)):
        raise RuntimeError(library.emulated_error().decode())
    return tuple(out), wide.value


def silu_mul(library: ctypes.CDLL, gate, up):
    """`avflow_ext.silu_mul` by the CUDA kernel, and how many elements a thread read at once."""
    out = torch.full(gate.shape, torch.nan, dtype=gate.dtype)
    args = SiluMulArgs(
        gate=gate.data_ptr(),
        up=up.data_ptr(),
        out=out.data_ptr(),
        rows=len(gate),
        width=gate.shape[1],
        gate_row=gate.stride(0),
        up_row=up.stride(0),
        dtype=DTYPES[gate.dtype],
    )
    wide = ctypes.c_int32()
    if library.emulated_silu_mul(ctypes.byref(args), ctypes.byref(wide)):
        raise RuntimeError(library.emulated_error().decode())
    return out, wide.value


def compact(library: ctypes.CDLL, x: torch.Tensor, keep: torch.Tensor):
    """`avflow_ext.compact` by the CUDA kernel, and how many bytes a thread copied."""
    batch, heads, n, d = x.shape
    out = torch.full((batch, heads, keep.shape[1], d), torch.nan, dtype=x.dtype)
    size = x.dtype.itemsize
    args = CompactArgs(
        x=x.data_ptr(),
        keep=keep.data_ptr(),
        out=out.data_ptr(),
        batch=batch,
        heads=heads,
        n=n,
        m=keep.shape[1],
        row_bytes=d * size,
        x_batch=x.stride(0) * size,
        x_head=x.stride(1) * size,
        x_token=x.stride(2) * size,
    )
    unit = ctypes.c_int32()
    if library.emulated_compact(ctypes.byref(args), ctypes.byref(unit)):
        raise RuntimeError(library.emulated_error().decode())
    return out, unit.value
