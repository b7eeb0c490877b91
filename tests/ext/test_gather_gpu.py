"""gather_rms_norm and compact on a CUDA device, against their references on the CPU."""

import pytest
import torch
from test_attention_gpu import REASON
from test_gather import assert_norms, positions, rows

from avflow_ext import compact, compact_reference, gather_rms_norm, gather_rms_norm_reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=REASON or "")]
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("width", [1, 7, 8, 65, 512, 2048, 3584, 8192])
def test_norm_equals_reference(width, dtype):
    x, weight = rows(300, width, dtype)
    keep = positions(300, 211)
    ours = gather_rms_norm(x.cuda(), weight.cuda(), 1e-6, keep.cuda())
    assert_norms([t.cpu() for t in ours], gather_rms_norm_reference(x, weight, 1e-6, keep), dtype)


def test_norm_of_strided_rows():
    x, weight = rows(50, 64, torch.bfloat16)
    keep = positions(50, 40)
    expected = gather_rms_norm_reference(x, weight, 1e-6, keep)
    for pad in (3, 8):
        wide = torch.zeros(50, 64 + pad, dtype=x.dtype, device="cuda")[:, pad:].copy_(x)
        ours = gather_rms_norm(wide, weight.cuda(), 1e-6, keep.cuda())
        assert_norms([t.cpu() for t in ours], expected, torch.bfloat16)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("d", [1, 24, 64, 128])
def test_compact_equals_reference(d, dtype):
    x = torch.randn(3, 100, 2, d).to(dtype).transpose(1, 2)
    keep = torch.stack([positions(100, 70, s) for s in range(3)])
    assert torch.equal(compact(x.cuda(), keep.cuda()).cpu(), compact_reference(x, keep))


def test_positions_beyond_are_padding():
    x, weight = rows(5, 64, torch.bfloat16)
    keep = torch.tensor([7, 2, -9], dtype=torch.int32)
    kept, normed = gather_rms_norm(x.cuda(), weight.cuda(), 1e-6, keep.cuda())
    assert torch.equal(kept[1].cpu(), x[2]) and (kept[::2] == 0).all() and (normed[::2] == 0).all()
    out = compact(x.cuda()[None, None], keep.cuda()[None])
    assert torch.equal(out[0, 0, 1].cpu(), x[2]) and (out[0, 0, ::2] == 0).all()


def test_nothing_kept():
    x, weight = rows(5, 64, torch.bfloat16)
    nothing = torch.zeros(0, dtype=torch.int32, device="cuda")
    assert gather_rms_norm(x.cuda(), weight.cuda(), 1e-6, nothing)[0].shape == (0, 64)
    assert compact(x.cuda()[None, None], nothing[None]).shape == (1, 1, 0, 64)


def test_a_captured_graph_serves_other_positions():
    x, weight = (t.cuda() for t in rows(90, 2048, torch.bfloat16))
    cache = torch.randn(1, 2, 90, 128, device="cuda").bfloat16()
    keep = positions(90, 30).cuda()
    gather_rms_norm(x, weight, 1e-6, keep), compact(cache, keep[None])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept, normed = gather_rms_norm(x, weight, 1e-6, keep)
        small = compact(cache, keep[None])
    keep.copy_(positions(90, 30, seed=5))
    graph.replay()
    expected = gather_rms_norm_reference(x.cpu(), weight.cpu(), 1e-6, keep.cpu())
    assert_norms((kept.cpu(), normed.cpu()), expected, torch.bfloat16)
    assert torch.equal(small.cpu(), compact_reference(cache.cpu(), keep.cpu()[None]))


def test_opcheck():
    x, weight = (t.cuda() for t in rows(9, 64, torch.bfloat16))
    keep = positions(9, 5).cuda()
    torch.library.opcheck(torch.ops.avflow.gather_rms_norm.default, (x, weight, 1e-6, keep))
    torch.library.opcheck(torch.ops.avflow.compact.default, (x[None, None], keep[None]))


def test_float32_is_refused_by_the_norm():
    x, weight = (t.cuda() for t in rows(9, 64, torch.float32))
    with pytest.raises(TypeError, match="bfloat16"):
        gather_rms_norm(x, weight, 1e-6, positions(9, 5).cuda())
