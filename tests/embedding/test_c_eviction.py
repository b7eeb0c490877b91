"""The gathers of an eviction through libavflow's C interface: the very bits of the operators."""

from ctypes import byref, sizeof

import pytest
import torch
from c_api import CUDA, INVALID, LIB, TYPES, UNSUPPORTED, Compaction, Norm, Threads, ok, pool

from avflow_ext import capabilities, compact, gather_rms_norm

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEEP = torch.tensor([3, -1, 0, 16, 3], dtype=torch.int32)


def norm_call(x, weight, keep, workers=0):
    kept, normed = (torch.full((len(keep), x.shape[1]), -7.0).to(x.dtype) for _ in range(2))
    call = Norm(
        size=sizeof(Norm),
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        keep=keep.data_ptr(),
        kept=kept.data_ptr(),
        normed=normed.data_ptr(),
        n=x.shape[0],
        m=len(keep),
        width=x.shape[1],
        x_row=x.stride(0),
        eps=1e-6,
        type=TYPES[x.dtype],
        threads=pool(workers) if workers else Threads(),
    )
    return call, kept, normed


def compact_call(x, keep, workers=0):
    out = torch.full((*x.shape[:2], keep.shape[1], x.shape[3]), -7.0).to(x.dtype)
    size = x.element_size()
    call = Compaction(
        size=sizeof(Compaction),
        x=x.data_ptr(),
        keep=keep.data_ptr(),
        out=out.data_ptr(),
        batch=x.shape[0],
        heads=x.shape[1],
        n=x.shape[2],
        m=keep.shape[1],
        row_bytes=x.shape[3] * size,
        x_batch=x.stride(0) * size,
        x_head=x.stride(1) * size,
        x_token=x.stride(2) * size,
        threads=pool(workers) if workers else Threads(),
    )
    return call, out


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(isa, dtype, workers):
    x, weight = torch.randn(17, 200).to(dtype)[:, :150], torch.randn(150).to(dtype)
    keep = KEEP.repeat(9)
    call, kept, normed = norm_call(x, weight, keep, workers)
    ok(LIB.avflow_gather_norm(byref(call)))
    for mine, theirs in zip((kept, normed), gather_rms_norm(x, weight, 1e-6, keep), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_compact(dtype, workers):
    x = torch.randn(2, 17, 3, 24).to(dtype).transpose(1, 2)  # [batch, heads, n, d], tokens first in memory
    keep = torch.stack([KEEP, KEEP.flip(0)])
    call, out = compact_call(x, keep, workers)
    ok(LIB.avflow_compact(byref(call)))
    assert torch.equal(out, compact(x, keep))


@pytest.mark.parametrize("position", [17, -2])
def test_positions_outside(position):
    keep = torch.tensor([0, position], dtype=torch.int32)
    call, _, normed = norm_call(torch.ones(17, 8), torch.ones(8), keep)
    assert LIB.avflow_gather_norm(byref(call)) == INVALID
    words = f"keep holds {position}, there are 17 tokens: pass positions of these, or -1 for padding".encode()
    assert LIB.avflow_last_error() == words and bool((normed == -7).all())
    call, out = compact_call(torch.ones(1, 2, 17, 8), keep[None])
    assert LIB.avflow_compact(byref(call)) == INVALID
    assert LIB.avflow_last_error() == words and bool((out == -7).all())


@pytest.mark.parametrize(
    "field, value, words",
    [("width", 0, b"width = 0"), ("n", -1, b"n = -1"), ("type", 3, b"type = 3"), ("x", None, b"is null")]
    + [("kernel", 2, b"kernel = 2"), ("size", 8, b"AvflowNorm.size = 8"), ("m", 2**31, b"m = 2147483648")],
)
def test_mistakes_of_a_norm(field, value, words):
    call, _, normed = norm_call(torch.ones(17, 8), torch.ones(8), KEEP)
    setattr(call, field, value)
    assert LIB.avflow_gather_norm(byref(call)) == INVALID
    assert words in LIB.avflow_last_error() and bool((normed == -7).all())


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("batch", -1, b"batch = -1"),
        ("heads", 2**62, b"does not fit"),
        ("out", None, b"is null"),
        ("size", 0, b"size = 0"),
    ],
)
def test_mistakes_of_a_compaction(field, value, words):
    call, out = compact_call(torch.ones(1, 2, 17, 8), KEEP[None])
    setattr(call, field, value)
    assert LIB.avflow_compact(byref(call)) == INVALID
    assert words in LIB.avflow_last_error() and bool((out == -7).all())


@pytest.mark.skipif(capabilities()["cuda"] is not None, reason="this build has CUDA kernels")
def test_cuda_is_unsupported_where_it_is_not_compiled_in():
    call, *_ = norm_call(torch.ones(17, 8), torch.ones(8), KEEP)
    call.kernel = CUDA
    assert LIB.avflow_gather_norm(byref(call)) == UNSUPPORTED
    other, _ = compact_call(torch.ones(1, 2, 17, 8), KEEP[None])
    other.kernel = CUDA
    assert LIB.avflow_compact(byref(other)) == UNSUPPORTED
