"""The compiled attention op against its plain-torch reference, and the properties that define it."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import EVERYTHING, HEAD_SHAPES, assert_same, causal, problems, qkv, rich_problem, tokens_and_streams

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference, mask_of

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ---------------------------------------------------------------- against the reference


@given(problem=problems(), shape=st.sampled_from(HEAD_SHAPES), semantics=st.sampled_from(["renormalize", "zero"]))
@quick
def test_equals_reference(problem, shape, semantics):
    q, k, v = qkv(problem, *shape)
    ours = attention(q, k, v, problem, semantics=semantics, **EVERYTHING)
    assert_same(ours, attention_reference(q, k, v, problem, semantics=semantics, **EVERYTHING))


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("shape", HEAD_SHAPES)
def test_every_instruction_set(isa, shape, semantics):
    problem = rich_problem()
    q, k, v = qkv(problem, *shape)
    ours = attention(q, k, v, problem, semantics=semantics, **EVERYTHING)
    assert_same(ours, attention_reference(q, k, v, problem, semantics=semantics, **EVERYTHING))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(isa, dtype):
    """Stored in 16 bits, computed in 32: the only error is the rounding of the output, below that of torch's."""
    problem = AttentionProblem(causal(300))
    q, k, v = qkv(problem, 14, 2, 64, dtype=dtype)
    expected = attention_reference(q.float(), k.float(), v.float(), problem).out
    ours = attention(q, k, v, problem).out
    assert ours.dtype == dtype
    heads = [t.transpose(0, 1)[None] for t in (q, k.repeat_interleave(7, 1), v.repeat_interleave(7, 1))]
    torchs = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)[0].transpose(0, 1)
    ours_error, torch_error = (ours.float() - expected).abs().max(), (torchs.float() - expected).abs().max()
    assert ours_error <= 2 * torch_error + 1e-6
    assert torch.equal(ours, expected.to(dtype)) or ours_error <= torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("n", [1, 2, 11, 12, 13, 63, 64, 65, 127, 128, 129, 255, 256, 257, 383])
@pytest.mark.parametrize("shape", [(8, 1, 64), (7, 1, 32)])
def test_tile_edges(n, shape):
    problem = AttentionProblem(causal(n))
    q, k, v = qkv(problem, *shape)
    heads = [t.transpose(0, 1)[None] for t in (q, k.repeat_interleave(shape[0], 1), v.repeat_interleave(shape[0], 1))]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)[0].transpose(0, 1)
    assert torch.allclose(attention(q, k, v, problem).out, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_split_the_keys(rows):
    """Decode: few rows over many keys take the path that splits keys and merges by log-sum-exp."""
    n = 3000
    group = torch.arange(n) // 500
    problem = AttentionProblem(
        Tokens(torch.arange(n - rows, n), group[-rows:]), Tokens(torch.arange(n), group), cuts=[Cut(0b10, 0b111111)]
    )
    q, k, v = qkv(problem, 16, 2, 128)
    assert_same(attention(q, k, v, problem, **EVERYTHING), attention_reference(q, k, v, problem, **EVERYTHING))


def test_threads_change_nothing():
    problem = rich_problem()
    q, k, v = qkv(problem, 8, 2, 64)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(attention(q, k, v, problem).out)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_strided_inputs():
    """[heads, rows, d] memory, as transformers hands queries over, and a slice of a wider projection."""
    problem = rich_problem()
    q, k, v = qkv(problem, 8, 2, 64)
    expected = attention(q, k, v, problem).out
    fused = torch.cat([k, v], 1)  # [keys, 2 * kv_heads, d]
    turned = q.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.empty(*v.shape[:2], 128)[..., ::2].copy_(v)  # innermost stride 2
    assert torch.equal(attention(turned, fused[:, :2], fused[:, 2:], problem).out, expected)
    assert torch.equal(attention(q, k, wide, problem).out, expected)


# ---------------------------------------------------------------- properties


def test_fully_cut_rows_are_exactly_zero():
    n = 200
    tokens = causal(n, group=(torch.arange(n) >= 150).int())
    problem = AttentionProblem(tokens, cuts=[Cut(0b11, 0b10, cut_self=True)])
    q, k, v = qkv(problem, 8, 2, 64)
    ours = attention(q, k, v, problem, **EVERYTHING)
    assert torch.equal(ours.out[150:], torch.zeros_like(ours.out[150:]))
    assert torch.isneginf(ours.lse[150:]).all() and (ours.group_mass[150:] == 0).all()
    assert (ours.out[:150] != 0).any() and torch.isfinite(ours.lse[:150]).all()


def test_zero_semantics_keeps_the_denominator():
    n = 130
    tokens = causal(n, group=(torch.arange(n) >= 40).int())
    cut = AttentionProblem(tokens, cuts=[Cut(0b01, 0b10)])
    q, k, v = qkv(cut, 4, 2, 32)
    clean = attention(q, k, v, AttentionProblem(tokens), **EVERYTHING)
    zero = attention(q, k, v, cut, semantics="zero", **EVERYTHING)
    assert torch.allclose(zero.lse, clean.lse, atol=1e-5)
    assert torch.allclose(zero.group_mass[40:, :, 1], clean.group_mass[40:, :, 1], atol=1e-6)
    assert (zero.group_mass[40:, :, 0] == 0).all()
    assert (clean.group_mass.sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_cut_values_do_not_leak(isa, poison):
    """NaN in keys and values that no open edge reaches must not be seen, in skipped tiles and in partial ones."""
    n = 300
    group = torch.zeros(n, dtype=torch.int32)
    group[10:14] = 1  # in a partial tile
    group[70:210] = 1  # whole tiles too
    problem = AttentionProblem(
        causal(n, group=group), cuts=[Cut(0b10, 0b01)], keep_rows=torch.nonzero(group == 0).flatten()
    )
    q, k, v = qkv(problem, 8, 2, 64)
    expected = attention(q, k, v, problem, **EVERYTHING)
    k[group == 1], v[group == 1] = poison, poison
    assert_same(attention(q, k, v, problem, **EVERYTHING), expected, tolerance=1e-6)


def test_a_visible_nan_is_not_hidden():
    problem = AttentionProblem(causal(100))
    for poisoned in range(3):
        q, k, v = qkv(problem, 4, 2, 32)
        (q, k, v)[poisoned][50] = math.nan
        out = attention(q, k, v, problem).out
        assert torch.isnan(out[50]).all()
        assert torch.isfinite(out[:50]).all()
        assert torch.isnan(out[51:]).all() == (poisoned > 0)


@given(problem=problems(), seed=st.integers(0, 1000))
@settings(quick, max_examples=25)
def test_relabelling_groups_changes_nothing(problem, seed):
    names = torch.randperm(64, generator=torch.Generator().manual_seed(seed))[:6].tolist()

    def word(old):
        return mask_of([names[g] for g in range(6) if old >> g & 1])

    def tokens(t):
        return Tokens(t.order, torch.tensor(names, dtype=torch.int32)[t.group.long()], t.item, t.stream)

    renamed = AttentionProblem(
        tokens(problem.rows),
        tokens(problem.keys),
        problem.streams,
        [
            Cut(word(c.source), word(c.target), c.streams, c.scope, c.heads, c.cut_self, c.random_share, c.seed)
            for c in problem.cuts
        ],
    )
    plain = AttentionProblem(problem.rows, problem.keys, problem.streams, problem.cuts)
    q, k, v = qkv(plain, 8, 2, 16)
    assert torch.equal(attention(q, k, v, plain).out, attention(q, k, v, renamed).out)


@given(layout=tokens_and_streams())
@settings(quick, max_examples=30)
def test_streams_equal_separate_runs(layout):
    """Every stream gives what its rows would give in a sequence of their own: the parent's keys, then its own."""
    tokens, streams = layout
    problem = AttentionProblem(tokens, streams=streams)
    q, k, v = qkv(problem, 4, 2, 16)
    packed = attention(q, k, v, problem).out
    for s in range(len(streams)):
        own = tokens.stream == s
        parent, start = int(streams.parent[s]), int(streams.start[s])
        seen = own | ((tokens.stream == parent) & (tokens.order < start) if parent >= 0 else torch.zeros_like(own))
        alone = AttentionProblem(
            Tokens(tokens.order[own], tokens.group[own]), Tokens(tokens.order[seen], tokens.group[seen])
        )
        assert torch.allclose(packed[own], attention(q[own], k[seen], v[seen], alone).out, atol=1e-5)


@given(problem=problems())
@settings(quick, max_examples=30)
def test_keep_equals_compaction(problem):
    q, k, v = qkv(problem, 4, 2, 32)
    kept = attention(q, k, v, problem, **EVERYTHING)
    rows = slice(None) if problem.keep_rows is None else problem.keep_rows.long()
    keys = slice(None) if problem.keep_keys is None else problem.keep_keys.long()
    compact = AttentionProblem(problem.rows, problem.keys, problem.streams, problem.cuts, groups=problem.groups)
    small = attention(q[rows].contiguous(), k[keys].contiguous(), v[keys].contiguous(), compact, **EVERYTHING)
    assert torch.equal(kept.out, small.out) and torch.equal(kept.group_mass, small.group_mass)


def test_keeping_all_is_keeping_nothing_out():
    tokens = rich_problem()
    everything = torch.arange(len(tokens.rows))
    kept = AttentionProblem(tokens.rows, None, tokens.streams, tokens.cuts, keep_rows=everything, keep_keys=everything)
    q, k, v = qkv(tokens, 8, 1, 64)
    assert torch.equal(attention(q, k, v, kept).out, attention(q, k, v, tokens).out)


def test_only_the_own_edge_is_spared():
    """A row whose own key takes no part: the key before it must not pass for it."""
    n = 100
    dropped = torch.arange(n)[torch.arange(n) % 3 != 1]
    problem = AttentionProblem(causal(n), cuts=[Cut(1, 1)], keep_keys=dropped)
    q, k, v = qkv(problem, 4, 2, 16)
    ours = attention(q, k, v, problem, **EVERYTHING)
    assert_same(ours, attention_reference(q, k, v, problem, **EVERYTHING))
    assert (ours.out[1::3] == 0).all() and torch.allclose(ours.out[0::3], v[0::3].repeat_interleave(2, 1), atol=1e-6)


def test_split_and_packing_change_nothing():
    """The last rows of a long run, alone: few rows split the keys and pack tiles on the way, many rows do neither."""
    n = 1500
    tokens = causal(n, group=torch.arange(n) // 300)
    cut = [Cut(0b00110, 0b10000)]
    whole = AttentionProblem(tokens, cuts=cut)
    q, k, v = qkv(whole, 8, 2, 64)
    expected = attention(q, k, v, whole, **EVERYTHING)
    for rows in (1, 3, 40):
        last = AttentionProblem(tokens, cuts=cut, keep_rows=torch.arange(n - rows, n))
        few = attention(q, k, v, last, **EVERYTHING)
        for a, b in zip(few, expected, strict=True):
            assert torch.allclose(a, b[n - rows :], atol=2e-6)


def test_random_share_cuts_about_that_share():
    from avflow_ext.reference import cut_edges

    tokens = causal(500)
    share = cut_edges(Cut(1, 1, random_share=0.3, seed=5), tokens, tokens).float().mean()
    assert abs(share - 0.3) < 0.01
    other = cut_edges(Cut(1, 1, random_share=0.3, seed=6), tokens, tokens).float().mean()
    assert other != share


def test_empty_inputs():
    nothing = Tokens([], [])
    q, k = torch.randn(0, 4, 16), torch.randn(0, 2, 16)
    assert attention(q, k, k, AttentionProblem(nothing)).out.shape == (0, 4, 16)
    no_keys = AttentionProblem(causal(3), nothing)
    ours = attention(torch.randn(3, 4, 16), k, k, no_keys, return_lse=True)
    assert (ours.out == 0).all() and torch.isneginf(ours.lse).all()
    none_kept = AttentionProblem(causal(3), keep_keys=[])
    assert (attention(torch.randn(3, 4, 16), torch.randn(3, 2, 16), torch.randn(3, 2, 16), none_kept).out == 0).all()


def test_padding_sees_and_is_seen_by_nobody():
    n = 90
    stream = torch.zeros(n, dtype=torch.int32)
    stream[:20] = -1
    problem = AttentionProblem(Tokens(torch.arange(n), torch.zeros(n, dtype=torch.int32), None, stream))
    q, k, v = qkv(problem, 4, 2, 16)
    out = attention(q, k, v, problem).out
    assert (out[:20] == 0).all()
    alone = AttentionProblem(causal(n - 20))
    assert torch.allclose(out[20:], attention(q[20:], k[20:], v[20:], alone).out, atol=1e-6)


def test_large_scores_do_not_overflow():
    problem = AttentionProblem(causal(100))
    q, k, v = qkv(problem, 4, 2, 32)
    assert_same(attention(q * 200, k * 200, v, problem), attention_reference(q * 200, k * 200, v, problem), 1e-4)


# ---------------------------------------------------------------- bad input


def bad_calls():
    n, good = 10, AttentionProblem(causal(10))
    q, k = torch.randn(n, 4, 16), torch.randn(n, 2, 16)
    yield "rank", (q[0], k, k, good), ValueError, "pass q"
    yield "key shapes", (q, k, k[:5], good), ValueError, "one shape"
    yield "head_dim differs", (q, k[..., :8], k[..., :8], good), ValueError, "head_dim"
    yield "head_dim odd", (q[..., :12], k[..., :12], k[..., :12], good), ValueError, "multiples of 8"
    yield "heads", (q[:, :3], k, k, good), ValueError, "do not divide"
    yield "rows", (q[:4], k, k, good), ValueError, "rows"
    yield "dtype", (q.double(), k.double(), k.double(), good), TypeError, "float64"
    yield "mixed dtype", (q, k.bfloat16(), k, good), TypeError, "bfloat16"
    yield "device", (q, k.to("meta"), k.to("meta"), good), ValueError, "meta"
    yield (
        "all on a device without kernel",
        (q.to("meta"), k.to("meta"), k.to("meta"), good),
        NotImplementedError,
        "meta",
    )
    yield "gradient", (q.clone().requires_grad_(), k, k, good), NotImplementedError, "no backward"


@pytest.mark.parametrize("case", list(bad_calls()), ids=lambda c: c[0])
def test_bad_inputs_name_what_is_wrong(case):
    _, args, error, text = case
    with pytest.raises(error, match=text):
        attention(*args)


def test_bad_options():
    problem = AttentionProblem(causal(4))
    q, k, v = qkv(problem, 4, 2, 16)
    with pytest.raises(ValueError, match="soft"):
        attention(q, k, v, problem, semantics="soft")
    with pytest.raises(ValueError, match="finite"):
        attention(q, k, v, problem, scale=math.nan)


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda: Tokens([0, 1], [0]), ValueError, "group has 1"),
        (lambda: Tokens([0, 1], [0, 64]), ValueError, "64"),
        (lambda: Tokens([0.5], [0]), TypeError, "integers"),
        (lambda: Tokens([0], [0], stream=[-2]), ValueError, "padding"),
        (lambda: Streams([-1, 0, 1], [0, 1, 2]), ValueError, "root"),
        (lambda: Streams([3], [0]), ValueError, "parent"),
        (lambda: Cut(-1, 0), ValueError, "source"),
        (lambda: Cut(1, 1, scope="frames"), ValueError, "frames"),
        (lambda: Cut(1, 1, random_share=1.5), ValueError, "1.5"),
        (lambda: Cut(1, 1, seed=-1), ValueError, "seed"),
        (lambda: AttentionProblem(Tokens([1, 0], [0, 0])), ValueError, "increase"),
        (
            lambda: AttentionProblem(Tokens([0, 5, 1, 5], [0] * 4, None, [1, 0, 1, 0])),
            ValueError,
            r"token 3 \(stream 0\)",
        ),
        (lambda: AttentionProblem(causal(3), keep_rows=[3]), IndexError, "3 tokens"),
        (lambda: AttentionProblem(Tokens([0], [0], stream=[1]), streams=Streams.roots(1)), ValueError, "stream 1"),
        (lambda: AttentionProblem(causal(3), cuts=[Cut(1, 1, streams=(4,))]), ValueError, "streams"),
        (lambda: AttentionProblem(causal(3), groups=65), ValueError, "64"),
        (lambda: mask_of([64]), ValueError, "0..63"),
    ],
)
def test_bad_problems(make, error, text):
    with pytest.raises(error, match=text):
        make()


@given(problem=problems(longest=120), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_the_first_tokens_are_those_of_the_columns(problem, share):
    rows, count = problem.rows, round(share * len(problem.rows))
    head = rows.head(count)
    made = Tokens(rows.order[:count], rows.group[:count], rows.item[:count], rows.stream[:count])
    ours, theirs = (AttentionProblem(t, problem.keys, problem.streams, problem.cuts) for t in (head, made))
    assert torch.equal(ours.packed(2), theirs.packed(2))


def test_the_first_tokens_are_checked_by_themselves():
    tokens = Tokens([0, 5, 1, 5, 9], [0] * 5, None, [1, 0, 1, 0, 0])
    assert tokens.disorder == 3 and tokens.head(3).disorder is None and tokens.head(4).disorder == 3
    AttentionProblem(tokens.head(3))
    with pytest.raises(ValueError, match="token 3"):
        AttentionProblem(tokens.head(4))


# ---------------------------------------------------------------- torch's own checks


def test_opcheck_and_compile():
    problem = rich_problem()
    q, k, v = qkv(problem, 8, 2, 32)
    packed = problem.packed(4)
    args = (q, k, v, packed, 0.2, len(problem.rows), problem.groups, True)
    torch.library.opcheck(torch.ops.avflow.attention.default, args)
    compiled = torch.compile(lambda *a: torch.ops.avflow.attention(*a)[0] * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), torch.ops.avflow.attention(*args)[0] * 2)


def test_the_wrapper_compiles_whole():
    problem = rich_problem()
    q, k, v = qkv(problem, 8, 2, 32)

    def attend(q, k, v):
        return attention(q, k, v, problem, return_lse=True).out * 2

    with torch.no_grad():
        expected = attend(q, k, v)  # packs the problem, which a trace does not
        assert torch.equal(torch.compile(attend, fullgraph=True, backend="aot_eager")(q, k, v), expected)


def test_export():
    problem = AttentionProblem(causal(70))
    packed = problem.packed(2)

    class Attend(torch.nn.Module):
        def forward(self, q, k, v, packed):
            return torch.ops.avflow.attention(q, k, v, packed, 0.25, 70, 0, False)[0]

    inputs = (*qkv(problem, 4, 2, 16), packed)
    exported = torch.export.export(Attend(), inputs)
    assert torch.equal(exported.module()(*inputs), Attend()(*inputs))


def test_a_foreign_buffer_is_refused():
    problem = AttentionProblem(causal(10))
    q, k, v = qkv(problem, 4, 2, 16)
    with pytest.raises(RuntimeError, match="packed problem"):
        torch.ops.avflow.attention(q, k, v, torch.zeros(100, dtype=torch.int32), 0.25, 10, 0, False)
