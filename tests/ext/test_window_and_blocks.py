"""Windows, and blocks that see both ways: the rule against transformers' own masks, the op against the rule."""

import math

import pytest
import torch
from c_api import Call, sizeof
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import EVERYTHING, HEAD_SHAPES, assert_same, causal, qkv
from rule_cases import ruled_caches, ruled_problems
from transformers import masking_utils

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference, cut_columns
from avflow_ext._load import _C
from avflow_ext.reference import cut_mask, visible

quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEMANTICS = st.sampled_from(["renormalize", "zero"])


# ---------------------------------------------------------------- the rule is that of transformers


def by_transformers(function, n: int) -> torch.Tensor:
    """bool [n, n] of a mask function of (batch, head, query, key)."""
    at = torch.arange(n)
    return function(torch.tensor(0), torch.tensor(0), at[:, None], at[None, :]).expand(n, n)


BLOCKS = {
    "images": [0 if 3 <= i < 20 else 1 if 40 <= i < 75 else 2 if i > 88 else -1 for i in range(97)],
    "a prefix": [0 if i < 41 else -1 for i in range(97)],
    "one block apart": [0 if i % 40 > 20 else -1 for i in range(97)],
}


@pytest.mark.parametrize("window", [1, 2, 17, 96, 97, 500])
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_rule_is_that_of_transformers(kind, window):
    n, ids = 97, BLOCKS[kind]
    tokens = Tokens(range(n), [0] * n, block=ids)
    causal_, block = masking_utils.causal_mask_function, masking_utils.blockwise_overlay(torch.tensor([ids]))
    sliding = masking_utils.sliding_window_causal_mask_function(window)
    near = masking_utils.sliding_window_overlay(window)
    either = masking_utils.or_masks
    for ours, theirs in [
        (AttentionProblem(tokens), either(causal_, block)),  # create_causal_mask
        (AttentionProblem(tokens, window=window), either(sliding, block)),  # create_sliding_window_causal_mask
        (
            AttentionProblem(tokens, window=window, blocks="windowed"),
            masking_utils.and_masks(either(causal_, block), near),
        ),
        (AttentionProblem(tokens, blocks="off"), causal_),  # Gemma 4's full layers; its sliding ones are the line above
        (AttentionProblem(tokens, window=window, blocks="off"), sliding),
    ]:
        assert torch.equal(visible(ours), by_transformers(theirs, n))


def test_a_stream_that_leaves_its_parent_within_a_block():
    """The stream's rows see the block's tokens before its start in the parent, and its own of any order."""
    block = [-1, 0, 0, 0, 0, -1]
    tokens = Tokens([0, 1, 2, 3, 4, 5, 3, 4, 5], [0] * 9, None, [0] * 6 + [1] * 3, block + block[3:])
    seen = visible(AttentionProblem(tokens, streams=Streams([-1, 0], [0, 3])))
    assert seen[6].tolist() == [True, True, True, False, False, False, True, True, False]
    assert seen[1].tolist() == [True, True, True, True, True, False, False, False, False]
    near = visible(AttentionProblem(tokens, streams=Streams([-1, 0], [0, 3]), window=2))
    assert near[8].tolist() == [False] * 7 + [True, True] and near[6].tolist() == [
        False, True, True, False, False, False, True, True, False
    ]  # fmt: skip


# ---------------------------------------------------------------- the op is the rule


@given(problem=ruled_problems(), shape=st.sampled_from(HEAD_SHAPES), semantics=SEMANTICS)
@settings(quick, max_examples=120)
def test_equals_reference(problem, shape, semantics):
    q, k, v = qkv(problem, *shape)
    ours = attention(q, k, v, problem, semantics=semantics, **EVERYTHING)
    assert_same(ours, attention_reference(q, k, v, problem, semantics=semantics, **EVERYTHING))


@given(case=ruled_caches(), shape=st.sampled_from(HEAD_SHAPES), semantics=SEMANTICS)
@quick
def test_equals_reference_where_each_call_says_the_orders(case, shape, semantics):
    problem, order = case
    q, k, v = qkv(problem, *shape)
    ours = attention(q, k, v, problem, semantics=semantics, row_order=order, **EVERYTHING)
    assert_same(ours, attention_reference(q, k, v, problem, semantics=semantics, row_order=order, **EVERYTHING))


@given(case=ruled_caches(ranged=True))
@quick
def test_the_plan_holds_what_any_order_needs(case):
    problem, _ = case
    kinds = _C.tile_kinds(problem.packed(8).numpy())
    rows, tile = problem.rows, _C.tile_rows(8)
    ends = {int(rows.order.min()) if len(rows) else 0, problem.latest_order}
    for shift in {0, 1, 30, 70, *ends}:
        order = (rows.order + shift).clamp(max=problem.latest_order).to(torch.int32)
        open_ = visible(problem, order) & ~cut_mask(problem, 8, order)  # [heads, rows, keys]
        for t, line in enumerate(kinds):
            for c, kind in enumerate(line):
                edges = open_[:, t * tile : (t + 1) * tile, 64 * c : 64 * (c + 1)]
                assert kind != 0 or not edges.any(), (t, c)
                assert kind != 2 or (edges.all() and edges.shape[2] == 64), (t, c)


@pytest.mark.parametrize("shape", [(8, 2, 64), (7, 1, 32)])
@pytest.mark.parametrize("window, blocks", [(1, "whole"), (70, "whole"), (70, "windowed"), (None, "whole")])
def test_every_instruction_set(isa, shape, window, blocks):
    n = 333
    block = [i // 64 if i // 64 in (1, 3) else 9 if 200 <= i < 230 else -1 for i in range(n)]
    tokens = Tokens(range(n), [i // 50 for i in range(n)], block=block)
    problem = AttentionProblem(tokens, cuts=[Cut(2, 8), Cut(4, 24, heads=5)], window=window, blocks=blocks)
    q, k, v = qkv(problem, *shape)
    assert_same(attention(q, k, v, problem, **EVERYTHING), attention_reference(q, k, v, problem, **EVERYTHING))


# ---------------------------------------------------------------- properties


def test_a_window_of_one_is_the_token_itself():
    problem = AttentionProblem(causal(200), window=1)
    q, k, v = qkv(problem, 4, 2, 16)
    assert torch.equal(attention(q, k, v, problem).out, v.repeat_interleave(2, 1))


def test_what_hides_nothing_changes_no_word_of_the_plan():
    n = 300
    block = Tokens(range(n), [0] * n, block=[-1] * n)
    for same in (
        AttentionProblem(causal(n), window=n),
        AttentionProblem(causal(n), window=2**31 - 1),
        AttentionProblem(block),
        AttentionProblem(Tokens(range(n), [0] * n, block=[3] * n), blocks="off"),
        AttentionProblem(causal(n), Tokens(range(n), [0] * n, block=[3] * n)),
    ):
        assert torch.equal(same.packed(4), AttentionProblem(causal(n)).packed(4))
    assert not torch.equal(AttentionProblem(causal(n), window=n - 1).packed(4), AttentionProblem(causal(n)).packed(4))


def test_one_block_is_attention_both_ways():
    n = 200
    problem = AttentionProblem(Tokens(range(n), [0] * n, block=[5] * n))
    q, k, v = qkv(problem, 4, 2, 16)
    heads = [t.transpose(0, 1)[None] for t in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads)[0].transpose(0, 1)
    assert torch.allclose(attention(q, k, v, problem).out, expected, atol=1e-5)
    assert (_C.tile_kinds(problem.packed(8).numpy())[:, : n // 64] == 2).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_the_window_hides_does_not_leak(isa, poison):
    """In skipped tiles and in partial ones."""
    n, window = 400, 100
    rows = causal(n).select(torch.arange(250, n))
    problem = AttentionProblem(rows, causal(n), window=window)
    q, k, v = qkv(problem, 8, 2, 64)
    expected = attention(q, k, v, problem, **EVERYTHING)
    k[: 250 - window + 1], v[: 250 - window + 1] = poison, poison
    assert_same(attention(q, k, v, problem, **EVERYTHING), expected, tolerance=1e-6)


@pytest.mark.parametrize("window", [100, 1024, 4096])
def test_tiles_that_a_window_hides_are_skipped(window):
    """As many as its width needs, in one stream, and in one that leaves another."""
    n = 8184  # no row tile is of both streams
    for tokens, streams in [
        (causal(n), None),
        (
            Tokens([*range(n), *range(n - 700, n)], [0] * (n + 700), None, [0] * n + [1] * 700),
            Streams([-1, 0], [0, n - 700]),
        ),
    ]:
        problem = AttentionProblem(tokens, streams=streams, window=window)
        kinds = _C.tile_kinds(problem.packed(8).numpy())  # of 12 rows
        assert (kinds > 0).sum(1).max() <= window // 64 + 2 + (streams is not None)
        full = (kinds == 2).sum(1)
        assert full[n // 12 - 1] >= window // 64 - 2
        assert _C.plan_size(problem.packed(8).numpy())["spans"] <= 4 * len(kinds)


@given(problem=ruled_problems(longest=120), kernel=st.sampled_from(["cpu", "cuda", "hopper"]), zero=st.booleans())
@quick
def test_the_words_of_the_operator_and_of_c_are_those_of_the_problem(problem, kernel, zero):
    """`off` is a column that is not given."""
    columns = [
        torch.from_numpy(t.matrix if problem.blocks != "off" else t.matrix[:, :4]) for t in (problem.rows, problem.keys)
    ]
    expected = problem.packed(3, "zero" if zero else "renormalize", kernel)
    words = torch.ops.avflow.pack(
        columns[0],
        *cut_columns(problem.cuts),
        6,
        2,
        keys=columns[1],
        streams=torch.from_numpy(problem.streams.matrix),
        groups=problem.groups,
        zero=zero,
        device_type=kernel,
        window=problem.window or 0,
        window_in_blocks=problem.blocks == "windowed",
    )
    assert torch.equal(words, expected)
    call = Call(
        *qkv(problem, 6, 2, 8),
        rows=problem.rows,
        keys=problem.keys,
        streams=problem.streams,
        cuts=problem.cuts,
        zero=zero,
        kernel=["cpu", "cuda", "hopper"].index(kernel),
        window=problem.window or 0,
        blocks=problem.blocks,
    )
    with call:
        call.layout.groups = problem.groups
        assert torch.equal(call.words(call.pack()), expected)


# ---------------------------------------------------------------- numbers at the ends, and bad ones


@pytest.mark.parametrize("window", [1, 2, 2**31 - 1])
@pytest.mark.parametrize(
    "orders", [(-(2**31), -(2**31) + 1, 2**31 - 1), (-(2**31), 0, 1), (2**31 - 3, 2**31 - 2, 2**31 - 1)]
)
def test_orders_at_the_ends_of_int32(window, orders):
    for block in (None, [-1, 2**31 - 1, 2**31 - 1]):
        problem = AttentionProblem(Tokens(orders, [0, 1, 2], block=block), window=window)
        q, k, v = qkv(problem, 4, 2, 16)
        assert_same(attention(q, k, v, problem, **EVERYTHING), attention_reference(q, k, v, problem, **EVERYTHING))


def pack_one(*token: int, **options) -> torch.Tensor:
    token = token or (0, 0, -1, 0)
    return torch.ops.avflow.pack(torch.tensor([token], dtype=torch.int32), *cut_columns([]), 1, 1, **options)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: AttentionProblem(causal(3), window=0), "window = 0: pass how many orders a row sees, 1"),
        (lambda: AttentionProblem(causal(3), window=2**31), "window = 2147483648"),
        (lambda: AttentionProblem(causal(3), blocks="both"), "blocks = 'both': pass one of whole, windowed, off"),
        (lambda: Tokens([0], [0], block=[-2]), "Tokens.block holds -2: blocks count from 0, -1 is none"),
        (lambda: Tokens([0], [0], block=[0, 1]), "Tokens.block has 2 entries"),
        (lambda: pack_one(window=-1), "window = -1"),
        (lambda: pack_one(window=2**31), "window = 2147483648: it must fit in int32"),
        (lambda: pack_one(0, 0, -1, 0, -2), r"row_block\[0\] = -2: blocks count from 0"),
    ],
)
def test_what_does_not_fit(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_layout_of_the_first_header_has_no_window_and_no_blocks():
    """Its fields end before those: what lies behind the struct is not looked at."""
    tokens = Tokens(range(100), [0] * 100, block=[0] * 100)
    problem = AttentionProblem(causal(100))
    with Call(*qkv(problem, 4, 2, 16), rows=tokens, window=7) as call:
        ruled = call.words(call.pack())
        call.layout.size = type(call.layout).row_block.offset
        assert call.layout.size < sizeof(type(call.layout))
        assert torch.equal(call.words(call.pack()), problem.packed(2))
        assert not torch.equal(ruled, problem.packed(2))
