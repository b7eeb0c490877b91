"""Random layouts for the attention op: interleaved groups and items, streams over a parent, cuts of every kind."""

from __future__ import annotations

import ctypes
import mmap

import torch
from hypothesis import strategies as st

from avflow_ext import AttentionProblem, Cut, Streams, Tokens
from avflow_ext._load import _C

GROUPS = 6


def cpu_isas() -> list[str]:
    """The paths of the CPU kernels that this build has and this processor runs."""
    before = _C.cpu_isa()

    def runs(path: str) -> bool:
        try:
            _C.set_cpu_isa(path)
        except ValueError:
            return False
        return True

    found = [path for path in _C.cpu_isas() if runs(path)]
    _C.set_cpu_isa(before)
    return found


@st.composite
def tokens_and_streams(draw, longest: int = 200, most_streams: int = 4):
    """A parent sequence and up to `most_streams` streams that join it; also several unrelated roots."""
    n = draw(st.integers(1, longest))
    run = draw(st.sampled_from([1, 3, 7, 20, 64]))  # tokens of one group in a row
    kinds = draw(st.lists(st.integers(0, GROUPS - 1), min_size=1, max_size=8))
    step = draw(st.sampled_from([1, 1, 2]))  # orders need not be consecutive
    group = [kinds[i // run % len(kinds)] for i in range(n)]
    item = [i // 10 % 5 - 1 for i in range(n)]
    order, stream, parent, start = [i * step for i in range(n)], [0] * n, [-1], [0]
    clean = (list(order), list(group), list(item))
    for s in range(draw(st.integers(0, most_streams))):
        first = draw(st.integers(0, n - 1))
        parent.append(0)
        start.append(clean[0][first])
        order += clean[0][first:]
        group += clean[1][first:]
        item += clean[2][first:]
        stream += [s + 1] * (n - first)
    if draw(st.booleans()):  # a second sample in the same pack
        m = draw(st.integers(1, 70))
        parent.append(-1)
        start.append(0)
        order += list(range(m))
        group += [kinds[i % len(kinds)] for i in range(m)]
        item += [-1] * m
        stream += [len(parent) - 1] * m
    return Tokens(order, group, item, stream), Streams(parent, start)


@st.composite
def cuts(draw, streams: int, heads: int):
    return Cut(
        source=draw(st.integers(0, 2**GROUPS - 1)),
        target=draw(st.integers(0, 2**GROUPS - 1)),
        streams=draw(st.none() | st.lists(st.integers(0, streams - 1), max_size=2, unique=True).map(tuple)),
        scope=draw(st.sampled_from(["all", "other_items"])),
        heads=draw(st.none() | st.integers(0, 2**heads - 1)),
        cut_self=draw(st.booleans()),
        random_share=draw(st.sampled_from([None, None, 0.0, 0.3, 1.0])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def keep_list(draw, n: int):
    """None, or a sorted list of positions, perhaps empty."""
    if draw(st.booleans()):
        return None
    seed, share = draw(st.integers(0, 2**16)), draw(st.sampled_from([0.0, 0.5, 0.9]))
    chosen = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share
    return torch.nonzero(chosen).flatten().to(torch.int32)


@st.composite
def problems(draw, heads: int = 8, longest: int = 200, most_streams: int = 4):
    tokens, streams = draw(tokens_and_streams(longest, most_streams))
    some = draw(st.lists(cuts(len(streams), heads), max_size=4))
    return AttentionProblem(
        tokens,
        streams=streams,
        cuts=some,
        keep_rows=keep_list(draw, len(tokens)),
        keep_keys=keep_list(draw, len(tokens)),
    )


EVERYTHING = dict(return_lse=True, return_group_mass=True)
HEAD_SHAPES = [(4, 2, 16), (7, 1, 32), (8, 1, 64), (14, 2, 128), (3, 3, 8), (2, 1, 40), (1, 1, 256)]


def qkv(problem: AttentionProblem, heads: int, kv_heads: int, d: int, seed: int = 0, dtype=torch.float32):
    """As `qkv_of`, as many as the problem has."""
    return qkv_of(problem.n_rows, problem.n_keys, heads, kv_heads, d, dtype, seed)


def qkv_of(rows: int, keys: int, heads: int, kv_heads: int, d: int, dtype=torch.float32, seed: int = 0):
    """Random q [rows, heads, d], k and v [keys, kv_heads, d]; scores spread enough for a sharp softmax."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, heads, d, generator=g) * 1.5
    k = torch.randn(keys, kv_heads, d, generator=g)
    v = torch.randn(keys, kv_heads, d, generator=g)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def assert_same(ours, expected, tolerance: float = 2e-5, **own: float):
    """Equal outputs, -inf at the same places. `own`: a tolerance for out, lse or group_mass alone."""
    for name in ("out", "lse", "group_mass"):
        a, b = getattr(ours, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is None or a.numel() == 0:
            assert a is None or a.shape == b.shape, name
            continue
        bound = own.get(name, tolerance)
        assert torch.equal(torch.isneginf(a), torch.isneginf(b)), f"{name}: -inf elsewhere"
        a, b = a.float().nan_to_num(neginf=0.0), b.float().nan_to_num(neginf=0.0)
        assert (a - b).abs().max() <= bound, f"{name}: {(a - b).abs().max():.2e} > {bound:.2e}"


@st.composite
def cache_problems(draw, heads: int = 8, most: int = 150, ranged: bool | None = None):
    """(problem, slots, row_order): a batch of sequences in one cache, of which `slots` of each are filled.

    Sequences of unlike lengths, padded on the left; rows are their last tokens, perhaps with orders that come later.
    """
    batch, capacity = draw(st.integers(1, 3)), draw(st.integers(1, most))
    slots = draw(st.one_of(st.just(capacity), st.integers(0, capacity)))
    run = draw(st.sampled_from([1, 7, 20, 64]))
    step = draw(st.sampled_from([1, 1, 3]))
    at = torch.arange(capacity)
    columns = []
    for b in range(batch):
        padding = draw(st.integers(0, capacity - 1))
        stream = torch.where(at < padding, -1, b)
        columns.append(torch.stack([at * step, (at + 5 * b) // run % GROUPS, at // 10 % 5 - 1, stream], 1))
    keys = Tokens(*torch.cat(columns).T)
    chosen = []
    for b in range(batch):
        rows = draw(st.integers(0, min(capacity, 40)))
        chosen.append(b * capacity + torch.arange(capacity - rows, capacity))
    rows = keys.select(torch.cat(chosen))
    latest, order = None, None
    if draw(st.booleans()) if ranged is None else ranged:
        back = draw(st.integers(0, 60))  # the orders that the plan is made for begin this much earlier
        latest = step * capacity
        true = rows.order
        rows = Tokens(true - back, rows.group, rows.item, rows.stream)
        seed = draw(st.integers(0, 2**16))
        order = true - torch.randint(0, back + 1, true.shape, generator=torch.Generator().manual_seed(seed))
        order = order.to(torch.int32)
    some = draw(st.lists(cuts(batch, heads), max_size=3))
    keep_rows, keep_keys = keep_list(draw, len(rows)), keep_list(draw, len(keys))
    problem = AttentionProblem(
        rows, keys, Streams.roots(batch), some, keep_rows, keep_keys, groups=GROUPS, latest_order=latest
    )
    if order is not None and keep_rows is not None:
        order = order[keep_rows.long()]
    return problem, batch, slots, order


def cache_qkv(problem: AttentionProblem, batch: int, slots: int, shape, seed: int = 0, dtype=torch.float32):
    """q [rows, heads, d]; k and v [batch, slots, kv_heads, d] as views of a cache [batch, kv_heads, longer, d]."""
    heads, kv_heads, d = shape
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(problem.n_rows, heads, d, generator=g) * 1.5
    k, v = (torch.randn(batch, kv_heads, slots + 3, d, generator=g).to(dtype) for _ in range(2))
    k[:, :, slots:], v[:, :, slots:] = torch.nan, torch.nan  # what lies behind the last slot is never read
    return q.to(dtype), k[:, :, :slots].transpose(1, 2), v[:, :, :slots].transpose(1, 2)


def guarded(shape: tuple[int, ...], readable: int, dtype: torch.dtype) -> torch.Tensor:
    """A random tensor whose memory ends the process if more than its first `readable` elements are touched.

    Those end at the end of a page, and the pages behind may not be read.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    page, size = mmap.PAGESIZE, dtype.itemsize
    count = torch.Size(shape).numel()
    before = -(-readable * size // page) * page
    after = (-(-(count - readable) * size // page) + 1) * page
    memory = mmap.mmap(-1, before + after)
    whole = torch.frombuffer(memory, dtype=dtype)  # keeps the mapping alive
    start = before // size - readable
    whole[start : start + readable] = torch.randn(readable, generator=torch.Generator().manual_seed(0)).to(dtype)
    address = ctypes.c_void_p(whole.data_ptr() + before)
    assert libc.mprotect(address, ctypes.c_size_t(after), 0) == 0
    return whole[start : start + count].view(shape)


def causal(n: int, **columns) -> Tokens:
    return Tokens(torch.arange(n), columns.get("group", torch.zeros(n, dtype=torch.int32)), columns.get("item"))


def rich_problem(n=333, keep=None):
    g = torch.Generator().manual_seed(1)
    group = torch.randint(0, 4, (n // 9 + 1,), generator=g).repeat_interleave(9)[:n]
    item = torch.arange(n) // 25
    order = torch.arange(n)
    start = n - 60
    tokens = Tokens(
        torch.cat([order, order[start:], order[start + 7 :]]),
        torch.cat([group, group[start:], group[start + 7 :]]),
        torch.cat([item, item[start:], item[start + 7 :]]),
        torch.cat([torch.zeros(n), torch.ones(60), torch.full((53,), 2)]).int(),
    )
    some = [
        Cut(0b0001, 0b0110, (1,)),
        Cut(0b0100, 0b1111, scope="other_items", random_share=0.5, seed=7),
        Cut(2, 8, heads=5),
    ]
    return AttentionProblem(tokens, streams=Streams([-1, 0, 0], [0, start, start + 7]), cuts=some, keep_keys=keep)
