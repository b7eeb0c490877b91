"""The decoder's passes on a CUDA device, against their references there and on the CPU."""

import pytest
import torch
from test_attention_gpu import REASON
from test_gather import assert_norms, rows
from test_passes import assert_silus, gates, heads_and_tables

from avflow_ext import (
    add_rms_norm,
    add_rms_norm_reference,
    rms_norm,
    rotary,
    rotary_reference,
    silu_mul,
    silu_mul_reference,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=REASON or "")]
HALVES = [torch.bfloat16, torch.float16]


def on_device(*tensors):
    return [t.cuda() for t in tensors]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("width", [1, 7, 8, 65, 512, 2048, 3584, 8192])
def test_norms_equal_references(width, dtype):
    x, weight = rows(300, width, dtype)
    residual, _ = rows(300, width, dtype, 1)
    given = on_device(x, residual, weight)
    ours = add_rms_norm(*given, 1e-6)
    assert_norms([t.cpu() for t in ours], add_rms_norm_reference(x, residual, weight, 1e-6), dtype)
    assert_norms(ours, add_rms_norm_reference(*given, 1e-6), dtype)
    assert torch.equal(rms_norm(ours[0], given[2], 1e-6), ours[1])


@pytest.mark.parametrize("tables", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("d", [2, 64, 80, 128])
def test_rotary_equals_reference(d, dtype, tables):
    given = heads_and_tables(300, 7, 2, d, dtype, tables=tables)
    ours = rotary(*on_device(*given))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, rotary_reference(*given), strict=True))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("width", [1, 65, 11008])
def test_silu_equals_reference(width, dtype):
    gate, up = gates(100, width, dtype)
    ours = silu_mul(*on_device(gate, up))
    assert_silus(ours.cpu(), silu_mul_reference(gate, up), dtype)
    assert_silus(ours, silu_mul_reference(*on_device(gate, up)), dtype)


def test_float32_is_refused():
    x, weight = on_device(*rows(9, 64, torch.float32))
    for call in (lambda: rms_norm(x, weight, 1e-6), lambda: silu_mul(x, x)):
        with pytest.raises(TypeError, match="bfloat16"):
            call()


def test_opcheck():
    x, weight = on_device(*rows(9, 64, torch.bfloat16))
    torch.library.opcheck(torch.ops.avflow.add_rms_norm.default, (x, x, weight, 1e-6))
    torch.library.opcheck(torch.ops.avflow.rotary.default, on_device(*heads_and_tables(9, 2, 1, 64, torch.bfloat16)))
    torch.library.opcheck(torch.ops.avflow.silu_mul.default, (x, x))
