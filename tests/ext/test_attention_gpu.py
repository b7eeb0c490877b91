"""The attention op on a CUDA device, against the plain-torch reference on the CPU. Skipped where there is no device.

The cases are those of tests/test_attention_op.py, by either kernel; tolerance is that of 16-bit values: two steps of
the output's grid, and in one test at most twice the error of torch's own attention in the same dtype.
"""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import (
    EVERYTHING,
    assert_same,
    cache_problems,
    cache_qkv,
    causal,
    problems,
    qkv,
    rich_problem,
    tokens_and_streams,
)

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference, capabilities
from avflow_ext import device as device_module
from avflow_ext.device import why_not_cuda
from avflow_ext.problem import AttentionOutput

pytestmark = pytest.mark.gpu

REASON = None if torch.cuda.is_available() else "no CUDA device"
if REASON is None:
    REASON = why_not_cuda(torch.cuda.current_device())
if REASON is not None:
    pytestmark = [pytest.mark.gpu, pytest.mark.skip(reason=REASON)]

SHAPES = [(8, 2, 64), (7, 1, 64), (16, 2, 128), (28, 4, 128), (3, 3, 64), (64, 1, 128)]
DTYPES = [torch.bfloat16, torch.float16]
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True, params=["cuda", "tall", "hopper"])
def kernel(request):
    """Every test by the kernels for all devices, and by the one of sm_90a, whichever would be chosen at its size."""
    if request.param == "hopper" and not device_module.runs_hopper(torch.cuda.current_device()):
        pytest.skip("the Hopper kernel needs a device of compute capability 9.0, and a build with sm_90")
    with device_module.taking(request.param):
        yield request.param


def on_gpu(*tensors):
    return [t.cuda() for t in tensors]


def assert_near(ours, expected, dtype):
    """`expected` from the fp32 arithmetic of the reference on the same 16-bit inputs."""
    assert all(t is None or t.is_cuda for t in ours)
    # The weights are rounded to 16 bits before they meet the values; lse and group_mass stay in fp32 throughout.
    most = expected.out.float().nan_to_num(neginf=0.0).abs().max() if expected.out.numel() else 0.0
    bound = 2 * torch.finfo(dtype).eps * max(1.0, float(most))
    assert_same(AttentionOutput(*(t if t is None else t.cpu() for t in ours)), expected, 1e-3, out=bound)


def compare(problem, shape, dtype, semantics="renormalize", seed=0):
    q, k, v = qkv(problem, *shape, seed=seed, dtype=dtype)
    expected = attention_reference(q.float(), k.float(), v.float(), problem, semantics=semantics, **EVERYTHING)
    ours = attention(*on_gpu(q, k, v), problem, semantics=semantics, **EVERYTHING)
    assert ours.out.dtype == dtype
    assert_near(ours, expected, dtype)


# ---------------------------------------------------------------- against the reference


@given(problem=problems(heads=8), shape=st.sampled_from(SHAPES), semantics=st.sampled_from(["renormalize", "zero"]))
@few
def test_equals_reference(problem, shape, semantics):
    compare(problem, shape, torch.bfloat16, semantics)


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape, dtype, semantics):
    compare(rich_problem(), shape, dtype, semantics)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 255, 256, 257, 383])
@pytest.mark.parametrize("shape", [(8, 1, 64), (7, 1, 128)])
def test_tile_edges(n, shape):
    compare(AttentionProblem(causal(n)), shape, torch.bfloat16)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_split_the_keys(rows):
    n = 5000
    group = torch.arange(n) // 1000
    problem = AttentionProblem(
        Tokens(torch.arange(n - rows, n), group[-rows:]), Tokens(torch.arange(n), group), cuts=[Cut(0b10, 0b111111)]
    )
    for shape in ((16, 2, 128), (7, 1, 64)):
        compare(problem, shape, torch.bfloat16)


@pytest.mark.parametrize("count", [2, 9, 40])
@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
def test_a_batch_of_ragged_lengths_decodes(count, semantics):
    lengths = torch.tensor([64 + 97 * i % 400 for i in range(count - 1)] + [3000])
    at = torch.cat([torch.arange(length) for length in lengths.tolist()])
    keys = Tokens(at, at // 50 % 4, None, torch.repeat_interleave(torch.arange(count), lengths))
    rows = keys.select(lengths.cumsum(0) - 1)
    problem = AttentionProblem(rows, keys, Streams.roots(count), [Cut(2, 15, heads=0b101), Cut(4, 15)])
    for shape in ((16, 2, 128), (7, 1, 64)):
        compare(problem, shape, torch.bfloat16, semantics)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(16, 2, 128), (14, 2, 64)])
def test_error_is_at_most_twice_that_of_torch(shape, dtype):
    heads, kv_heads, _ = shape
    problem = AttentionProblem(causal(700))
    q, k, v = qkv(problem, *shape, dtype=dtype)
    expected = attention_reference(q.float(), k.float(), v.float(), problem).out
    q, k, v = on_gpu(q, k, v)
    ours = attention(q, k, v, problem).out.cpu().float()
    wide = [t.transpose(0, 1)[None] for t in (q, *(t.repeat_interleave(heads // kv_heads, 1) for t in (k, v)))]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        theirs = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=True)[0].transpose(0, 1)
    error, peer = (ours - expected).abs(), (theirs.cpu().float() - expected).abs()
    assert error.max() <= 2 * peer.max() and error.mean() <= 2 * peer.mean()


# ---------------------------------------------------------------- properties


@given(layout=tokens_and_streams(), seed=st.integers(0, 100))
@few
def test_two_runs_give_the_same_bits(layout, seed):
    tokens, streams = layout
    problem = AttentionProblem(tokens, streams=streams, cuts=[Cut(0b101, 0b111, random_share=0.4, seed=seed)])
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, seed=seed, dtype=torch.bfloat16))
    first, second = (attention(q, k, v, problem, **EVERYTHING) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_strided_inputs():
    problem = rich_problem()
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16))
    expected = attention(q, k, v, problem).out
    fused = torch.cat([k, v], 1)  # [keys, 2 * kv_heads, d]
    turned = q.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.empty(*v.shape[:2], 128, dtype=v.dtype, device="cuda")[..., ::2].copy_(v)  # innermost stride 2
    assert torch.equal(attention(turned, fused[:, :2], fused[:, 2:], problem).out, expected)
    assert torch.equal(attention(q, k, wide, problem).out, expected)


def test_tensors_that_begin_between_16_bytes():
    """They are copied: slices at odd places, rows at odd distances, contiguous ones that begin at an odd element."""
    problem = rich_problem()
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16))
    expected = attention(q, k, v, problem).out
    for start in (1, 3, 4):
        odd = [
            torch.zeros(*t.shape[:2], 72, dtype=t.dtype, device="cuda")[..., start : start + 64].copy_(t)
            for t in (q, k, v)
        ]
        assert torch.equal(attention(*odd, problem).out, expected)
    shifted = [torch.zeros(t.numel() + 1, dtype=t.dtype, device="cuda")[1:].view(t.shape).copy_(t) for t in (q, k, v)]
    assert all(t.is_contiguous() and t.data_ptr() % 16 for t in shifted)
    assert torch.equal(attention(*shifted, problem).out, expected)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_cut_values_do_not_leak(poison):
    n = 300
    group = torch.zeros(n, dtype=torch.int32)
    group[10:14] = 1  # in a partial tile
    group[70:210] = 1  # whole tiles too
    problem = AttentionProblem(
        causal(n, group=group), cuts=[Cut(0b10, 0b01)], keep_rows=torch.nonzero(group == 0).flatten()
    )
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16))
    expected = attention(q, k, v, problem, **EVERYTHING)
    k[group == 1], v[group == 1] = poison, poison
    ours = attention(q, k, v, problem, **EVERYTHING)
    assert all(torch.isfinite(t).all() for t in ours)
    assert_near(ours, AttentionOutput(*(t.cpu() for t in expected)), torch.bfloat16)


def test_a_visible_nan_is_not_hidden():
    problem = AttentionProblem(causal(100))
    for poisoned in range(3):
        q, k, v = on_gpu(*qkv(problem, 4, 2, 64, dtype=torch.bfloat16))
        (q, k, v)[poisoned][50] = math.nan
        out = attention(q, k, v, problem).out
        assert torch.isnan(out[50]).all() and torch.isfinite(out[:50]).all()


def test_fully_cut_rows_are_exactly_zero():
    n = 200
    tokens = causal(n, group=(torch.arange(n) >= 150).int())
    problem = AttentionProblem(tokens, cuts=[Cut(0b11, 0b10, cut_self=True)])
    ours = attention(*on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16)), problem, **EVERYTHING)
    assert (ours.out[150:] == 0).all() and torch.isneginf(ours.lse[150:]).all() and (ours.group_mass[150:] == 0).all()


def test_empty_inputs():
    q, k = (torch.randn(n, h, 64, device="cuda", dtype=torch.bfloat16) for n, h in ((3, 4), (0, 2)))
    ours = attention(q, k, k, AttentionProblem(causal(3), Tokens([], [])), return_lse=True)
    assert (ours.out == 0).all() and torch.isneginf(ours.lse).all()
    assert attention(q[:0], k, k, AttentionProblem(Tokens([], []))).out.shape == (0, 4, 64)
    k = torch.randn(3, 2, 64, device="cuda", dtype=torch.bfloat16)
    assert (attention(q, k, k, AttentionProblem(causal(3), keep_keys=[])).out == 0).all()


# ---------------------------------------------------------------- caches by slot, orders on the device


@given(case=cache_problems(), shape=st.sampled_from(SHAPES), semantics=st.sampled_from(["renormalize", "zero"]))
@few
def test_caches_equal_the_reference(case, shape, semantics):
    problem, batch, slots, order = case
    q, k, v = cache_qkv(problem, batch, slots, shape, dtype=torch.bfloat16)
    options = dict(semantics=semantics, **EVERYTHING)
    expected = attention_reference(q.float(), k.float(), v.float(), problem, row_order=order, **options)
    order = None if order is None else order.cuda()
    assert_near(attention(*on_gpu(q, k, v), problem, row_order=order, **options), expected, torch.bfloat16)


def test_a_captured_decode_step_serves_all_orders():
    """One graph: the orders change in their tensor, and NaN lies behind what is written."""
    n = 700
    keys = Tokens(torch.arange(n).repeat(2), [0] * 2 * n, None, torch.arange(2).repeat_interleave(n))
    problem = AttentionProblem(Tokens([100] * 2, [0] * 2, None, [0, 1]), keys, Streams.roots(2), latest_order=n - 1)
    k, v = (torch.full((2, n, 2, 64), torch.nan, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    q = torch.randn(2, 8, 64, device="cuda").bfloat16()
    order = torch.full((2,), 100, dtype=torch.int32, device="cuda")
    attention(q, k, v, problem, row_order=order)  # uploads the problem
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attention(q, k, v, problem, row_order=order).out
    for last in (100, 101, 400, n - 1):
        for t in (k, v):
            t[:, : last + 1] = torch.randn(2, last + 1, 2, 64, device="cuda").bfloat16()
        order.fill_(last)
        graph.replay()
        expected = attention_reference(
            *(t.cpu().float() for t in (q, k, v)), problem, row_order=order.cpu(), return_lse=True
        )
        assert (captured.cpu().float() - expected.out).abs().max() < 0.02


# ---------------------------------------------------------------- streams, graphs, compilation


def test_capture_in_a_cuda_graph():
    """The replay reads new values from the same memory, and gives the same bits as a plain call."""
    problem = rich_problem()
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16))
    graph = torch.cuda.CUDAGraph()
    attention(q, k, v, problem)  # uploads the problem
    with torch.cuda.graph(graph):
        captured = attention(q, k, v, problem).out
    for t, seed in zip((q, k, v), range(3), strict=True):
        t.copy_(torch.randn(t.shape, generator=torch.Generator().manual_seed(seed)))
    graph.replay()
    assert torch.equal(captured, attention(q, k, v, problem).out)


def test_a_first_call_inside_a_capture_says_what_to_do():
    problem = rich_problem()
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="before the capture"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        attention(q, k, v, problem)


def test_it_runs_on_the_current_stream():
    """A long wait in front of it on the stream: the op must not overtake, and the default stream is not touched."""
    problem = rich_problem()
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16))
    expected = attention(q, k, v, problem).out
    late = torch.zeros_like(q)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        late.copy_(q)
        out = attention(late, k, v, problem).out
        torch.cuda.current_stream().synchronize()
    assert torch.equal(out, expected)


def test_opcheck_and_compile(kernel):
    problem = rich_problem()
    q, k, v = on_gpu(*qkv(problem, 8, 2, 64, dtype=torch.bfloat16))
    host, copy = problem.packed(4, device_type=kernel), problem.packed_on(q.device, 4)
    args = (q, k, v, host, 0.125, len(problem.rows), problem.groups, True, copy)
    torch.library.opcheck(torch.ops.avflow.attention.default, args)
    compiled = torch.compile(lambda *a: attention(*a).out * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, problem), attention(q, k, v, problem).out * 2)


def test_what_it_does_not_take():
    problem = AttentionProblem(causal(10))
    q, k, v = on_gpu(*qkv(problem, 4, 2, 64))
    with pytest.raises(TypeError, match="float32.*bfloat16"):
        attention(q, k, v, problem)
    with pytest.raises(ValueError, match="32.*64 and 128"):
        attention(*(t[..., :32].bfloat16() for t in (q, k, v)), problem)
    host = problem.packed(2)  # planned for the CPU's tiles
    q, k, v = (t.bfloat16() for t in (q, k, v))
    with pytest.raises(RuntimeError, match="for the CPU"):
        torch.ops.avflow.attention(q, k, v, host, 0.125, 10, 0, False, host.cuda())
    with pytest.raises(RuntimeError, match="problem_on_device"):
        torch.ops.avflow.attention(q, k, v, problem.packed(2, device_type="cuda"), 0.125, 10, 0, False)


def test_the_device_and_its_path_are_named():
    from avflow.models.attention import kernel_name

    cuda = capabilities()["cuda"]
    assert cuda["why"] is None and len(cuda["devices"]) == torch.cuda.device_count()
    assert kernel_name(torch.device("cuda")) == f"cuda-{cuda['path']}"
