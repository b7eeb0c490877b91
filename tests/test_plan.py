"""The block plan: which tiles are skipped, partial, full - against brute force over the reference mask."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import problems

from avflow_ext import AttentionProblem, Cut, Tokens
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
    kinds = torch.zeros(-(-rows // tile_rows), -(-keys // 64), dtype=torch.int32)
    for t in range(kinds.shape[0]):
        for c in range(kinds.shape[1]):
            block = (slice(t * tile_rows, (t + 1) * tile_rows), slice(c * 64, (c + 1) * 64))
            whole = (c + 1) * 64 <= keys
            full = whole and bool((seen & ~cut_some)[block].all())
            kinds[t, c] = 2 if full else int(bool(alive[block].any()))
    return kinds


@given(problem=problems(), group=st.sampled_from([1, 4, 7, 8, 64]), zero=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_kinds_are_exact(problem, group, zero):
    packed = problem.packed(group, "zero" if zero else "renormalize").numpy()
    kinds = torch.from_numpy(_C.tile_kinds(packed))
    expected = brute_force(problem, _C.tile_rows(group), zero)
    assert torch.equal(kinds.reshape(expected.shape), expected)


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
