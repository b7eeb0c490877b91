"""The block plan: which tiles are skipped, partial, full - against brute force over the reference mask."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import cuts, problems
from rule_cases import ruled, ruled_problems

from avflow_ext import AttentionProblem, Cut, Streams, Tokens
from avflow_ext._load import _C
from avflow_ext.reference import cut_edges, visible


def brute_force(problem: AttentionProblem, tile_rows: int, zero: bool) -> torch.Tensor:
    """0 skip, 1 partial, 2 full for each pair of tiles, [row_tiles, key_tiles], from the dense mask."""
    seen = visible(problem)  # [rows, keys]
    cut_any = torch.zeros_like(seen)  # cut for every head
    cut_some = torch.zeros_like(seen)  # cut for some head
    for cut in problem.cuts:
        edges = cut_edges(cut, problem.rows, problem.keys)
        cut_some |= edges
        if cut.heads is None:
            cut_any |= edges
    alive = seen if zero else seen & ~cut_any
    rows, keys = seen.shape
    tiles, columns = -(-rows // tile_rows), -(-keys // 64)

    def blocks(mask: torch.Tensor, fill: bool) -> torch.Tensor:
        whole = torch.full((tiles * tile_rows, columns * 64), fill)
        whole[:rows, :keys] = mask
        return whole.view(tiles, tile_rows, columns, 64)

    alive = blocks(alive, False).any(3).any(1)
    full = blocks(seen & ~cut_some, True).all(3).all(1)
    full[:, keys // 64 :] = False  # a tile that is not whole
    return torch.where(full, 2, alive.int()).to(torch.int32)


@given(problem=problems(), group=st.sampled_from([1, 4, 7, 8, 64]), zero=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_kinds_are_exact(problem, group, zero):
    packed = problem.packed(group, "zero" if zero else "renormalize").numpy()
    kinds = torch.from_numpy(_C.tile_kinds(packed))
    expected = brute_force(problem, _C.tile_rows(group), zero)
    assert torch.equal(kinds.reshape(expected.shape), expected)


@given(problem=ruled_problems(), group=st.sampled_from([1, 4, 7, 8, 64]), zero=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_kinds_are_exact_under_a_window_and_blocks(problem, group, zero):
    packed = problem.packed(group, "zero" if zero else "renormalize").numpy()
    expected = brute_force(problem, _C.tile_rows(group), zero)
    assert torch.equal(torch.from_numpy(_C.tile_kinds(packed)).reshape(expected.shape), expected)


def test_causal_skips_half_and_cross_frame_more():
    n = 2048
    tokens = Tokens(torch.arange(n), torch.zeros(n, dtype=torch.int32), torch.arange(n) // 256)
    causal = _C.tile_kinds(AttentionProblem(tokens).packed(8).numpy())
    frames = _C.tile_kinds(AttentionProblem(tokens, cuts=[Cut(1, 1, scope="other_items")]).packed(8).numpy())
    assert (causal > 0).mean() < 0.53
    assert (frames > 0).mean() < 0.09  # 8 frames: an eighth of the causal half, plus the diagonal


def test_the_packed_problem_is_linear():
    def words(n):
        tokens = Tokens(torch.arange(n), torch.arange(n) * 8 // n, torch.arange(n) // 100)
        return AttentionProblem(tokens, cuts=[Cut(1, 2), Cut(4, 4, scope="other_items")]).packed(8).numel()

    assert words(32768) < 9 * words(4096)


def test_many_pairs_are_planned_in_stretches():
    """Millions of pairs of tiles are shared among threads; each pair gets what its tokens say, in the tiles' order."""
    n = 12288
    group = torch.zeros(n, dtype=torch.int32)
    group[640:1280], group[9000:] = 1, 2
    problem = AttentionProblem(Tokens(torch.arange(n), group), cuts=[Cut(0b010, 0b100)])
    kinds = torch.from_numpy(_C.tile_kinds(problem.packed(96).numpy()))  # one row a tile
    assert kinds.shape == (n, n // 64)
    row, tile = torch.arange(n)[:, None], torch.arange(n // 64)[None]
    expected = (tile * 64 <= row).int() + ((tile + 1) * 64 - 1 <= row).int()
    expected[9000:, 10:20] = 0
    assert torch.equal(kinds, expected)


@st.composite
def long_problems(draw):
    """Streams that start late in a parent of ten tiles and more, which is where rows are judged by class."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns, parent, start, lengths = [], [], [], []
    for prompt in range(draw(st.integers(1, 2))):
        n = int(rng.integers(500, 900))
        run = rng.integers(1, 60, n)
        group = np.repeat(rng.integers(0, 4, n), run)[:n]
        item = np.repeat(rng.integers(-1, 4, n), rng.integers(1, 60, n))[:n]
        lengths.append((n, group, item))
        columns.append((np.arange(n), group, item, np.full(n, prompt)))
        parent.append(-1)
        start.append(0)
    for _ in range(draw(st.integers(1, 9))):
        prompt = int(rng.integers(len(lengths)))
        n, group, item = lengths[prompt]
        first = int(rng.choice([n - 3, n - 40, n - 130, rng.integers(n)]))
        columns.append((np.arange(first, n), group[first:], item[first:], np.full(n - first, len(parent))))
        parent.append(prompt)
        start.append(first)
    if draw(st.booleans()):
        rng.shuffle(columns)  # a parent's keys may lie behind its streams', and share tiles with them
    if draw(st.booleans()):
        columns.append((np.zeros(70, int), np.zeros(70, int), np.zeros(70, int), np.full(70, -1)))
    order, group, item, stream = (np.concatenate(column).astype(np.int32) for column in zip(*columns, strict=True))
    # Those that leave nothing open, and those drawn at random, which seldom do.
    total = st.builds(Cut, st.sampled_from([7, 15]), st.just(15), cut_self=st.booleans())
    some = draw(st.lists(st.one_of(total, *[cuts(len(parent), 8)] * 3), min_size=1, max_size=3))
    return AttentionProblem(
        Tokens(*map(torch.from_numpy, (order, group, item, stream))), None, Streams(parent, start), some
    )


@given(problem=long_problems(), group=st.sampled_from([1, 4, 8]), zero=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_kinds_are_exact_where_streams_share_a_parent(problem, group, zero):
    packed = problem.packed(group, "zero" if zero else "renormalize").numpy()
    kinds = torch.from_numpy(_C.tile_kinds(packed))
    assert torch.equal(kinds, brute_force(problem, _C.tile_rows(group), zero))


@given(data=st.data(), problem=long_problems(), zero=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_kinds_are_exact_where_streams_share_a_parent_under_a_window_and_blocks(data, problem, zero):
    problem = ruled(data.draw, problem)
    packed = problem.packed(4, "zero" if zero else "renormalize").numpy()
    assert torch.equal(torch.from_numpy(_C.tile_kinds(packed)), brute_force(problem, _C.tile_rows(4), zero))
