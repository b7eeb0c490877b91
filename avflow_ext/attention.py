"""The attention op: packed rows, variable length, cut by token columns. Forward only."""

from __future__ import annotations

import torch

from ._load import _C
from .problem import AttentionOutput, AttentionProblem, check_inputs


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    problem: AttentionProblem,
    scale: float | None = None,
    semantics: str = "renormalize",
    return_lse: bool = False,
    return_group_mass: bool = False,
) -> AttentionOutput:
    """Softmax attention in which token columns decide who sees whom; `attention_reference` without its N x N tensors.

    Args:
        q: [rows, heads, d] float32, bfloat16 or float16; any strides. d a multiple of 8, at most 256; at most 64 heads.
        k, v: [keys, kv_heads, d], dtype and device of q; heads is a multiple of kv_heads.
        problem: rows, keys, streams, cuts and keep lists, see `AttentionProblem`.
        scale: factor of the scores before the softmax; default d ** -0.5.
        semantics: "renormalize": a cut score is -inf before the softmax; "zero": its weight is set to zero after the
            softmax and the others stay as they are.
        return_lse: also the log-sum-exp of each row's scores (in "zero" semantics, of the cut ones too).
        return_group_mass: also the share of attention that each token group received.

    Returns:
        AttentionOutput: out [kept rows, heads, d] in q's dtype, lse [kept rows, heads] float32 or None, group_mass
        [kept rows, heads, groups] float32 or None. Arithmetic is float32. A row that sees no open key is exactly 0.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; the message names them.
        NotImplementedError: tensors on a device without a kernel, or inputs that require a gradient.
    """
    scale = check_inputs(q, k, v, problem, scale, semantics)
    if q.device.type != "cpu" and not torch.compiler.is_compiling():
        raise NotImplementedError(f"no attention kernel for device {q.device} yet: move q, k, v to the CPU")
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise NotImplementedError("avflow's attention has no backward: call it under torch.no_grad()")
    packed = problem.packed(q.shape[1] // k.shape[1], semantics)
    groups = problem.groups if return_group_mass else 0
    out, lse, mass = torch.ops.avflow.attention(q, k, v, packed, scale, len(problem.rows), groups, return_lse)
    return AttentionOutput(out, lse if return_lse else None, mass if return_group_mass else None)


def capabilities() -> dict:
    """What this build and this machine can run: {"cpu": path in use, "cpu_built": [paths], "cuda": None}."""
    return {"cpu": _C.cpu_isa(), "cpu_built": _C.cpu_isas(), "cuda": None, "threads": torch.get_num_threads()}
