"""Keys of a batch by slot, as a cache holds them, and rows whose order each call says: one problem for a generation."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import EVERYTHING, HEAD_SHAPES, assert_same, cache_problems, cache_qkv, causal, guarded, qkv, rich_problem

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference
from avflow_ext._load import _C

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ---------------------------------------------------------------- against the reference


@given(case=cache_problems(), shape=st.sampled_from(HEAD_SHAPES), semantics=st.sampled_from(["renormalize", "zero"]))
@settings(quick, max_examples=150)
def test_equals_reference(case, shape, semantics):
    problem, batch, slots, order = case
    q, k, v = cache_qkv(problem, batch, slots, shape)
    ours = attention(q, k, v, problem, semantics=semantics, row_order=order, **EVERYTHING)
    expected = attention_reference(q, k, v, problem, semantics=semantics, row_order=order, **EVERYTHING)
    assert_same(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(8, 2, 64), (7, 1, 32), (3, 3, 40)])
def test_every_instruction_set(isa, shape, dtype):
    keys, batch, capacity = two_sequences()
    problem = AttentionProblem(
        keys.select(torch.arange(0, 2 * capacity, 5)), keys, Streams.roots(2), [Cut(0b10, 0b1111, heads=0b101)]
    )
    for slots in (capacity, capacity - 1, 130, 64, 0):
        q, k, v = cache_qkv(problem, batch, slots, shape, dtype=dtype)
        ours = attention(q, k, v, problem, **EVERYTHING)
        expected = attention_reference(q.float(), k.float(), v.float(), problem, **EVERYTHING)
        assert_same(ours, expected, out=2e-5 if dtype == torch.float32 else 0.02)


@given(case=cache_problems(ranged=True))
@quick
def test_the_plan_holds_what_any_order_needs(case):
    """Exhaustively: a skipped pair of tiles has no open edge in any order of the range, a full one has no other."""
    problem, _, _, _ = case
    kinds = _C.tile_kinds(problem.packed(8).numpy())
    rows, tile = problem.rows, _C.tile_rows(8)
    ends = {int(rows.order.min()) if len(rows) else 0, problem.latest_order}
    from avflow_ext.reference import cut_mask, visible

    for shift in {0, 1, 30, *ends}:
        order = (rows.order + shift).clamp(max=problem.latest_order).to(torch.int32)
        open_ = visible(problem, order) & ~cut_mask(problem, 8, order)  # [heads, rows, keys]
        for t, line in enumerate(kinds):
            for c, kind in enumerate(line):
                block = open_[:, t * tile : (t + 1) * tile, 64 * c : 64 * (c + 1)]
                assert kind != 0 or not block.any(), (t, c)
                assert kind != 2 or (block.all() and block.shape[2] == 64), (t, c)


# ---------------------------------------------------------------- properties


def two_sequences(capacity: int = 200) -> tuple[Tokens, int, int]:
    """(keys, batch, capacity): two sequences, the second padded on the left."""
    at = torch.arange(capacity).repeat(2)
    stream = torch.arange(2).repeat_interleave(capacity)
    stream[capacity : capacity + 30] = -1
    return Tokens(at, at // 50, None, stream), 2, capacity


def test_a_cache_equals_its_keys_one_after_the_other(isa):
    keys, batch, capacity = two_sequences()
    problem = AttentionProblem(keys, streams=Streams.roots(2), cuts=[Cut(1, 2)])
    q, k, v = cache_qkv(problem, batch, capacity, (8, 2, 64))
    flat = [t.reshape(batch * capacity, 2, 64) for t in (k, v)]
    ours, expected = (attention(q, *kv, problem, **EVERYTHING) for kv in ((k, v), flat))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_absent_slots_are_as_good_as_padding():
    """Slots not held equal padding, in tiles that the plan calls full, too."""
    keys, batch, capacity = two_sequences()
    for slots in (0, 1, 63, 64, 100, 199):
        held = torch.arange(capacity).repeat(2) < slots
        masked = Tokens(keys.order, keys.group, keys.item, torch.where(held, keys.stream, -1))
        rows = keys.select(torch.arange(capacity - 20, capacity))
        problem = AttentionProblem(rows, keys, Streams.roots(2), groups=4)
        padded = AttentionProblem(rows, masked, Streams.roots(2), groups=4)
        q, k, v = cache_qkv(problem, batch, slots, (8, 2, 64))
        wide = [torch.zeros(2, capacity, 2, 64) for _ in range(2)]
        for wider, t in zip(wide, (k, v), strict=True):
            wider[:, :slots] = t
        for semantics in ("renormalize", "zero"):
            ours = attention(q, k, v, problem, semantics=semantics, **EVERYTHING)
            assert_same(ours, attention(q, *wide, padded, semantics=semantics, **EVERYTHING), 1e-6)


def generation(isa_dtype, length: int = 300, prompt: int = 170, batch: int = 2):
    """A static cache in which nothing is written behind the prompt yet: NaN and infinities lie there."""
    at = torch.arange(length).repeat(batch)
    stream = torch.arange(batch).repeat_interleave(length)
    keys = Tokens(at, torch.where(at < 60, 1, 0), None, stream)
    rows = Tokens([prompt] * batch, [0] * batch, None, list(range(batch)))
    problem = AttentionProblem(rows, keys, Streams.roots(batch), [Cut(2, 1, heads=1)], latest_order=length - 1)
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(batch, 2, length, 64, generator=g).to(isa_dtype) for _ in range(2))
    return problem, k.transpose(1, 2), v.transpose(1, 2), torch.randn(batch, 8, 64, generator=g).to(isa_dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_the_tail_of_a_static_cache_does_not_leak(isa, garbage, dtype):
    problem, k, v, q = generation(dtype)
    for last in (170, 191, 192, 299):
        order = torch.tensor([last, last - 1 if last > 170 else last], dtype=torch.int32)
        clean = attention_reference(q.float(), k.float(), v.float(), problem, row_order=order, **EVERYTHING)
        ruined = [t.clone() for t in (k, v)]
        for t in ruined:
            for b in range(2):
                t[b, int(order[b]) + 1 :] = garbage
        ours = attention(q, *ruined, problem, row_order=order, **EVERYTHING)
        assert_same(ours, clean, out=2e-5 if dtype == torch.float32 else 0.02)
        again = attention(q, k, v, problem, row_order=order, **EVERYTHING)
        assert_same(ours, again, 1e-6, out=1e-6 if dtype == torch.float32 else 0.02)  # sums in another order


def test_one_problem_serves_a_growing_cache():
    """A dynamic cache: slots grow, the problem stays, and each step equals a problem of its own."""
    problem, k, v, q = generation(torch.float32)
    for last in (170, 171, 200, 255, 256, 299):
        held = last + 1
        order = torch.full((2,), last, dtype=torch.int32)
        ours = attention(q, k[:, :held], v[:, :held], problem, row_order=order, **EVERYTHING)
        keys = problem.keys.select(torch.cat([torch.arange(held), 300 + torch.arange(held)]))
        own = AttentionProblem(
            Tokens(order, [0, 0], None, [0, 1]), keys, problem.streams, problem.cuts, groups=problem.groups
        )
        flat = [t[:, :held].reshape(2 * held, 2, 64) for t in (k, v)]
        assert_same(ours, attention(q, *flat, own, **EVERYTHING), 2e-6)


def test_threads_change_nothing_in_a_ranged_decode():
    problem, k, v, q = generation(torch.float32, length=3000, prompt=900)
    order = torch.tensor([950, 2000], dtype=torch.int32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(attention(q, k, v, problem, row_order=order).out)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_own_edge_is_spared_wherever_it_falls():
    """Cut all but the own edge: the plan may not call any tile full, nor skip one that may hold the own key."""
    n = 400
    keys = causal(n)
    rows = Tokens([10, 12], [0, 0])
    problem = AttentionProblem(rows, keys, cuts=[Cut(1, 1)], latest_order=n - 1)
    q, k, v = qkv(problem, 4, 2, 16)
    for orders in ([10, 12], [63, 64], [12, 399]):
        out = attention(q, k, v, problem, row_order=torch.tensor(orders, dtype=torch.int32)).out
        assert torch.allclose(out, v[orders].repeat_interleave(2, 1), atol=1e-6)


def test_random_share_follows_the_order_of_the_call():
    n = 300
    problem = AttentionProblem(
        Tokens([100], [0]), causal(n), cuts=[Cut(1, 1, random_share=0.5, seed=3)], latest_order=n - 1
    )
    q, k, v = qkv(problem, 4, 2, 16)
    for order in (100, 250, 299):
        row_order = torch.tensor([order], dtype=torch.int32)
        own = AttentionProblem(Tokens([order], [0]), causal(n), cuts=problem.cuts)
        ours = attention(q, k, v, problem, row_order=row_order, **EVERYTHING)
        assert_same(ours, attention(q, k, v, own, **EVERYTHING), 1e-6)
        assert_same(ours, attention_reference(q, k, v, problem, row_order=row_order, **EVERYTHING))


def test_streams_of_a_parent_keep_their_start():
    """A row's order moves within its own stream; what it sees of the parent ends at the start, whatever the order."""
    shared = rich_problem()
    later = shared.rows.order + torch.where(shared.rows.stream > 0, 5, 0)
    ranged = AttentionProblem(
        shared.rows, shared.keys, shared.streams, shared.cuts, latest_order=int(shared.rows.order.max()) + 5
    )
    q, k, v = qkv(shared, 8, 2, 64)
    order = later.to(torch.int32)
    ours = attention(q, k, v, ranged, row_order=order, **EVERYTHING)
    assert_same(ours, attention_reference(q, k, v, ranged, row_order=order, **EVERYTHING))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("heads", [(16, 2), (32, 1)])
def test_a_decode_step_copies_no_cache(batch, heads):
    """Its memory is a fraction of the cache's, for batches whose rows fill several row tiles, too."""
    capacity, d = 16384, 64
    stream = torch.arange(batch).repeat_interleave(capacity)
    at = torch.arange(capacity).repeat(batch)
    rows = Tokens([100] * batch, [0] * batch, None, list(range(batch)))
    problem = AttentionProblem(
        rows, Tokens(at, torch.zeros_like(at), None, stream), Streams.roots(batch), latest_order=capacity - 1
    )
    k = torch.randn(batch, heads[1], capacity, d).transpose(1, 2)
    q = torch.randn(batch, heads[0], d)
    order = torch.full((batch,), capacity - 1, dtype=torch.int32)
    packed = problem.packed(heads[0] // heads[1])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        attention(q, k, k, problem, row_order=order)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert 0 < allocated < 0.3 * k.numel() * 4, f"{allocated} bytes beside a cache of {k.numel() * 4}"
    assert packed.numel() * 4 < 0.4 * k.numel() * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held, capacity, last", [(130, 130, 129), (130, 400, 399), (400, 400, 127), (400, 400, 0)])
def test_no_byte_beyond_is_read(isa, held, capacity, last, dtype):
    """Neither behind the last slot, nor in tiles that the order closes: those pages may not be touched."""
    problem = AttentionProblem(Tokens([0], [0]), causal(capacity), latest_order=capacity - 1)
    readable = min(held, (last // 64 + 1) * 64) * 2 * 64
    k, v = (guarded((1, held, 2, 64), readable, dtype) for _ in range(2))
    out = attention(torch.randn(1, 8, 64).to(dtype), k, v, problem, row_order=torch.tensor([last], dtype=torch.int32))
    assert out.out.isfinite().all()


# ---------------------------------------------------------------- bad input


def test_bad_caches_and_orders():
    keys, batch, capacity = two_sequences(50)
    problem = AttentionProblem(keys, streams=Streams.roots(2))
    q = torch.randn(100, 4, 16)
    cache = torch.randn(2, 51, 2, 16)
    with pytest.raises(ValueError, match="51 slots or more"):
        attention(q, cache, cache, problem)
    with pytest.raises(ValueError, match="3 batches"):
        attention(q, torch.randn(3, 20, 2, 16), torch.randn(3, 20, 2, 16), problem)
    good, order = cache[:, :50], torch.arange(100, dtype=torch.int32)
    with pytest.raises(ValueError, match="belong together"):
        attention(q, good, good, problem, row_order=order)
    ranged = AttentionProblem(Tokens([3, 4], [0, 0]), keys, Streams.roots(2), latest_order=40)
    with pytest.raises(ValueError, match="belong together"):
        attention(q[:2], good, good, ranged)
    for bad in (order[:2].long(), order[:3]):
        with pytest.raises(ValueError, match=r"int32 \[2\]"):
            attention(q[:2], good, good, ranged, row_order=bad)
    for bad in ([2, 4], [3, 41]):
        with pytest.raises(ValueError, match=r"^row_order\[[01]\] = (2|41)"):
            attention(q[:2], good, good, ranged, row_order=torch.tensor(bad, dtype=torch.int32))
    with pytest.raises(ValueError, match="latest_order = 3"):
        AttentionProblem(Tokens([3, 4], [0, 0]), keys, latest_order=3)


# ---------------------------------------------------------------- torch's own checks


def test_opcheck():
    problem, k, v, q = generation(torch.float32)
    order = torch.tensor([180, 250], dtype=torch.int32)
    args = (q, k, v, problem.packed(4), 0.125, 2, problem.groups, True, None, order)
    torch.library.opcheck(torch.ops.avflow.attention.default, args)


def test_a_compiled_step_serves_all_orders_and_slots():
    """fullgraph; the orders are a tensor, so nothing is compiled again while a sequence grows."""
    problem, k, v, q = generation(torch.float32)

    def step(q, k, v, order):
        return attention(q, k, v, problem, row_order=order, return_lse=True).out * 2

    order = torch.full((2,), 200, dtype=torch.int32)
    with torch.no_grad():
        step(q, k, v, order)  # packs the problem, which a trace does not
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        for last in (200, 201, 290):
            order = torch.full((2,), last, dtype=torch.int32)
            assert torch.equal(compiled(q, k, v, order), step(q, k, v, order))
        grows = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
        for held in (201, 202, 300):
            order = torch.full((2,), held - 1, dtype=torch.int32)
            args = (q, k[:, :held], v[:, :held], order)
            assert torch.equal(grows(*args), step(*args))
