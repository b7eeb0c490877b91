"""How many rows a tile of the CUDA kernel's plan has: those of one sequence, where a batch has few of each."""

import pytest
import torch

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, cut_columns
from avflow_ext._load import _C

HEADS = 8  # of a kv head: 8 rows fill a tile of 64 packed rows


def batch(lengths, rows=1, groups=None):
    """Sequences of these lengths behind one another, and the last `rows` of each as rows."""
    at = torch.cat([torch.arange(n) for n in lengths])
    stream = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    keys = Tokens(at, torch.zeros_like(at) if groups is None else groups, None, stream)
    ends = torch.tensor(lengths).cumsum(0)
    last = torch.cat([torch.arange(end - rows, end) for end in ends.tolist()])
    return keys.select(last), keys, Streams.roots(len(lengths))


def rows_a_tile(problem, kernel="cuda", heads=HEADS):
    return _C.plan_size(problem.packed(heads, "renormalize", kernel).numpy())["tile_rows"]


@pytest.mark.parametrize("rows, expected", [(1, 1), (2, 2), (3, 3), (7, 7), (8, 8), (9, 8), (20, 8)])
def test_a_tile_holds_one_sequence(rows, expected):
    problem = AttentionProblem(*batch([300, 1000, 700, 640, 900, 300, 300, 555, 301], rows))
    assert rows_a_tile(problem) == expected
    assert rows_a_tile(problem, heads=64) == 1
    assert rows_a_tile(problem, "cpu") == _C.tile_rows(HEADS, "cpu")
    assert rows_a_tile(problem, "hopper") == _C.tile_rows(HEADS, "hopper")


def test_its_tiles_are_full():
    """Only those that a sequence shares with its neighbours are partial, and as many are read as before."""
    lengths = [640, 1000, 64, 700]
    problem = AttentionProblem(*batch(lengths))
    kinds = _C.tile_kinds(problem.packed(HEADS, device_type="cuda").numpy())
    begin = 0
    for row, length in enumerate(lengths):
        end = begin + length
        for tile, kind in enumerate(kinds[row]):
            inside = begin <= 64 * tile and 64 * tile + 64 <= end
            outside = 64 * tile + 64 <= begin or 64 * tile >= end
            assert kind == (2 if inside else 0 if outside else 1)
        begin = end


def test_rows_that_share_keys_stay_together():
    rows, keys, _ = batch([640] * 6)
    alone = AttentionProblem(rows, keys, Streams.roots(6))
    assert rows_a_tile(alone) == 1
    # Children of the first sequence, as the streams of a sweep are: they all read it.
    assert rows_a_tile(AttentionProblem(rows, keys, Streams([-1] + [0] * 5, [0] + [600] * 5))) == 8
    # Rows of two sequences in turns: each would be read twice.
    turns = Tokens([638, 638, 639, 639], [0] * 4, None, [0, 1, 0, 1])
    assert rows_a_tile(AttentionProblem(turns, keys, Streams.roots(6))) == 8
    # Sequences so short that a key tile holds several; the keys of two in turns.
    assert rows_a_tile(AttentionProblem(*batch([9] * 30))) == 8
    woven = Tokens(torch.arange(640).repeat_interleave(2), [0] * 1280, None, [0, 1] * 640)
    assert rows_a_tile(AttentionProblem(Tokens([639, 639], [0, 0], None, [0, 1]), woven, Streams.roots(2))) == 8


def test_what_has_no_one_length():
    rows, keys, streams = batch([640] * 4, 3)
    assert rows_a_tile(AttentionProblem(rows.select(torch.arange(11)), keys, streams)) == 3  # the end may be short
    assert rows_a_tile(AttentionProblem(rows.select(torch.arange(1, 12)), keys, streams)) == 8
    assert rows_a_tile(AttentionProblem(rows, keys, streams, keep_rows=[0, 3, 6, 9])) == 1
    assert rows_a_tile(AttentionProblem(rows, keys, streams, keep_rows=[0, 1, 2])) == 8  # one sequence
    assert rows_a_tile(AttentionProblem(rows, keys, streams, keep_rows=[])) == 8
    assert rows_a_tile(AttentionProblem(rows, keys, streams, keep_keys=[])) == 3


def test_rows_of_padding_fit_anywhere():
    rows, keys, streams = batch([640] * 4)
    padded = Tokens([639] * 5, [0] * 5, None, [0, -1, -1, 2, 3])
    assert rows_a_tile(AttentionProblem(padded, keys, streams)) == 1


@pytest.mark.parametrize("lengths", [[640, 1000, 300], [9] * 20])
def test_the_operator_plans_the_same(lengths):
    rows, keys, streams = batch(lengths)
    cuts = [Cut(1, 1, streams=(1,))]
    tables = {"keys": torch.from_numpy(keys.matrix), "streams": torch.from_numpy(streams.matrix)}
    of_rows = torch.from_numpy(rows.matrix)
    words = torch.ops.avflow.pack(of_rows, *cut_columns(cuts), HEADS, 1, **tables, device_type="cuda")
    assert torch.equal(words, AttentionProblem(rows, keys, streams, cuts).packed(HEADS, device_type="cuda"))
