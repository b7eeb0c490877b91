"""The attention op: packed rows, variable length, cut by token columns. Forward only."""

from __future__ import annotations

from typing import TypedDict

import torch

from ._load import _C
from .calls import check_gradient, run
from .device import CudaCapabilities, Kernel, check_cuda, cuda_capabilities, cuda_kernel
from .problem import AttentionOutput, AttentionProblem, check_inputs
from .tokens import Semantics


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    problem: AttentionProblem,
    scale: float | None = None,
    semantics: Semantics = "renormalize",
    return_lse: bool = False,
    return_group_mass: bool = False,
    row_order: torch.Tensor | None = None,
) -> AttentionOutput:
    """Softmax attention in which token columns decide who sees whom; `attention_reference` without its N x N tensors.

    Args:
        q: [rows, heads, d] float32, bfloat16 or float16; any strides. d a multiple of 8, at most 256; at most 64 heads.
            On CUDA: bfloat16 or float16, d 64 or 128.
        k, v: [keys, kv_heads, d], dtype and device of q; heads is a multiple of kv_heads. Or, so that a cache goes in
            as it is, [batch, slots, kv_heads, d], any strides: key j of the problem is then slot j % capacity of batch
            j // capacity, where capacity = problem.n_keys // batch. Slots that the tensors do not hold (capacity >
            slots) are absent: no row sees them, whatever the problem allows.
        problem: rows, keys, streams, cuts and keep lists, see `AttentionProblem`.
        scale: factor of the scores before the softmax; default d ** -0.5.
        semantics: "renormalize": a cut score is -inf before the softmax; "zero": its weight is set to zero after the
            softmax and the others stay as they are.
        return_lse: also the log-sum-exp of each row's scores (in "zero" semantics, of the cut ones too).
        return_group_mass: also the share of attention that each token group received.
        row_order: int32 [kept rows] on q's device, with a problem that has latest_order and only with one: the rows'
            orders in this call, between those the problem was built with and latest_order. On the CPU that is checked;
            on CUDA it is not, since that would wait for the device, and orders beyond see too much or too little.

    Returns:
        AttentionOutput: out [kept rows, heads, d] in q's dtype, lse [kept rows, heads] float32 or None, group_mass
        [kept rows, heads, groups] float32 or None. Arithmetic is float32. A row that sees no open key is exactly 0.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; the message names them.
        NotImplementedError: tensors on a device without a kernel, or inputs that require a gradient.
    """
    scale = check_inputs(q, k, v, problem, scale, semantics, row_order)
    on_cuda = q.is_cuda
    if not torch.compiler.is_compiling():
        if on_cuda:
            check_cuda(q)
        elif not q.is_cpu:
            raise NotImplementedError(f"no attention kernel for device {q.device}: move q, k, v to the CPU or to CUDA")
    check_gradient("attention", q, k, v)
    ratio = q.shape[1] // k.shape[-2]
    rows, streams = len(problem.rows), len(problem.streams)
    kernel: Kernel = cuda_kernel(q.device.index, rows, ratio, streams) if on_cuda else "cpu"
    packed = problem.packed(ratio, semantics, kernel)
    copy = problem.packed_on(q.device, ratio, semantics) if on_cuda else None
    groups = problem.groups if return_group_mass else 0
    out, lse, mass = run(torch.ops.avflow.attention, q, k, v, packed, scale, rows, groups, return_lse, copy, row_order)
    return AttentionOutput(out, lse if return_lse else None, mass if return_group_mass else None)


class Capabilities(TypedDict):
    """What `capabilities` returns."""

    cpu: str
    cpu_built: list[str]
    cuda: CudaCapabilities | None
    threads: int
    ops: dict[str, dict[str, str | None]]  # by op, then by device type


def capabilities() -> Capabilities:
    """What this build and this machine can run: {"cpu": path in use, "cpu_built": [paths], "threads", "cuda", "ops"}.

    "ops" names the path of each op by device type, None where it has none there: {"attention": {"cpu": "avx512",
    "cuda": "sm90"}, ...}; with "amx" and "avx512_bf16" attention in other dtypes than bfloat16 takes "avx512", with
    "neon_bf16" it takes "portable".
    `compact` only copies memory, so its path on the CPU is "memcpy".

    "cuda" is None in a build without CUDA, else {"archs", "runtime", "devices", "path", "why"}: `path` is what the
    current device runs, such as "sm90"; where it is None, `why` names what is missing.
    """
    cpu, cuda = _C.cpu_isa(), cuda_capabilities()
    # Paths that multiply bfloat16 are attention's alone.
    general = {"amx": "avx512", "avx512_bf16": "avx512", "neon_bf16": "portable"}.get(cpu, cpu)
    on_cuda = cuda["path"] if cuda else None
    others = on_cuda and on_cuda.removesuffix("a")  # only attention has a kernel of its own for sm_90a
    return {
        "cpu": cpu,
        "cpu_built": _C.cpu_isas(),
        "cuda": cuda,
        "threads": torch.get_num_threads(),
        "ops": {
            "attention": {"cpu": cpu, "cuda": on_cuda},
            "gather_rms_norm": {"cpu": general, "cuda": others},
            "compact": {"cpu": "memcpy", "cuda": others},
            **{op: {"cpu": general, "cuda": others} for op in ("rms_norm", "add_rms_norm", "rotary", "silu_mul")},
        },
    }
