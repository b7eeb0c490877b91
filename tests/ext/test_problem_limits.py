"""Where int32 and memory end: refused with the value and the mend, never a crash or another number."""

import functools
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from op_cases import EVERYTHING, assert_same, causal, qkv, rich_problem

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference, mask_of
from avflow_ext._load import _C

LEAST, MOST = -(2**31), 2**31 - 1


# ---------------------------------------------------------------- numbers at the ends of int32


def test_a_stream_that_starts_before_every_order_is_refused():
    with pytest.raises(ValueError, match=r"Streams.start holds -2147483648.*start it later, or make it a root"):
        Streams([-1, 0], [0, LEAST])
    Streams([-1, -1], [0, LEAST])  # a root's start is not looked at


def test_the_plan_refuses_it_too():
    tokens, streams = np.zeros((1, 4), np.int32), np.array([[-1, 0], [0, LEAST]], np.int32)
    with pytest.raises(ValueError, match=r"-2\*\*31"):
        pack(tokens, tokens, streams)


@pytest.mark.parametrize("start", [LEAST + 1, LEAST + 2, 0, MOST])
@pytest.mark.parametrize("orders", [(LEAST, LEAST + 1, LEAST + 2), (-1, 0, 1), (MOST - 2, MOST - 1, MOST)])
def test_starts_and_orders_at_the_ends_of_int32(start, orders):
    tokens = Tokens([*orders, orders[-1]], [0, 1, 2, 2], None, [0, 0, 0, 1])
    problem = AttentionProblem(tokens, streams=Streams([-1, 0], [0, start]))
    q, k, v = qkv(problem, 4, 2, 16)
    assert_same(attention(q, k, v, problem, **EVERYTHING), attention_reference(q, k, v, problem, **EVERYTHING))


def test_streams_that_nobody_named_are_bounded():
    for tokens in (Tokens([0], [0], stream=[MOST]), Tokens([0], [0], stream=[2**20])):
        with pytest.raises(ValueError, match=r"Tokens.stream holds \d+: .*number the streams from 0, or pass streams"):
            AttentionProblem(tokens)
    few_of_many = AttentionProblem(Tokens([0], [0], stream=[70_000]))  # what a keep list may leave of a large batch
    assert len(few_of_many.streams) == 70_001 and few_of_many.packed(1).numel() > 0
    assert AttentionProblem(Tokens([0, 1], [0, 0], stream=[-1, -1])).packed(1).numel() > 0  # padding alone


@pytest.mark.parametrize("heads", [0, -1, LEAST])
def test_a_ratio_of_heads_below_one_is_refused(heads):
    problem = AttentionProblem(causal(3))
    with pytest.raises(ValueError, match=f"heads_per_kv_head = {heads}"):
        problem.packed(heads)
    for kernel in ("cpu", "cuda", "hopper"):
        with pytest.raises(ValueError, match=f"{heads} query heads"):
            _C.tile_rows(heads, kernel)


def test_columns_of_the_group_mass_hold_every_group():
    for groups in (-1, 0, 2, 65):
        with pytest.raises(ValueError, match=f"groups = {groups}: pass 3 .. 64"):
            AttentionProblem(Tokens([0, 1], [0, 2]), groups=groups)
    with pytest.raises(ValueError, match="groups = 0: pass 1 .. 64"):  # 0 stands for "none wanted" in the operator
        AttentionProblem(causal(3), keep_keys=[], groups=0)


def test_unknown_words_are_refused():
    problem = AttentionProblem(causal(3))
    with pytest.raises(ValueError, match="'none'"):
        problem.packed(1, "none")
    with pytest.raises(ValueError, match="tpu"):
        problem.packed(1, device_type="tpu")


# ---------------------------------------------------------------- the size of the plan


def pack(rows, keys, streams, **changed):
    """The packed problem of plain columns, by the compiled function itself."""
    given = {
        "cuts": [],
        "keep_rows": None,
        "keep_keys": None,
        "q_rows": len(rows),
        "k_rows": len(keys),
        "groups": 1,
        "tile_rows": 1,
        "zero": False,
        "latest_order": None,
    }
    return _C.pack(rows, keys, streams, **(given | changed))


@pytest.mark.parametrize("side", ["q_rows", "k_rows"])
def test_more_rows_or_keys_than_int32_counts_are_refused(side):
    nothing = np.zeros((0, 4), np.int32)
    with pytest.raises(ValueError, match="2147483648"):
        pack(nothing, nothing, np.array([[-1, 0]], np.int32), **{side: 2**31})


def test_offsets_that_would_not_fit_are_refused(monkeypatch):
    """The limit is 2**31 words; a lower one shows that none of the sections passes it."""
    problem = rich_problem()
    needed = problem.packed(4).numel()
    pack_up_to = _C.pack
    for limit in [*range(0, needed, 7), needed - 1]:
        monkeypatch.setattr(_C, "pack", functools.partial(pack_up_to, most_words=limit))
        problem._packed.clear()
        with pytest.raises(ValueError, match=rf"the plan of .* words or more, its offsets reach {limit}: pass fewer"):
            problem.packed(4)
    monkeypatch.setattr(_C, "pack", functools.partial(pack_up_to, most_words=needed))
    assert problem.packed(4).numel() == needed


def test_more_tiles_than_int32_counts():
    """2 million tokens of plain causal attention pass that, at a small plan: the count must not turn negative."""
    keys = causal(2**20)
    rows = Tokens(torch.arange(2**20, 2**20 + 2**17 + 1), torch.zeros(2**17 + 1, dtype=torch.int32))
    packed = AttentionProblem(rows, keys).packed(96).numpy()  # one row a tile
    size = _C.plan_size(packed)
    assert size["row_tiles"] == size["spans"] == 2**17 + 1 and size["key_tiles"] == size["runs"] == 2**14
    assert size["tiles"] == (2**17 + 1) * 2**14 > MOST


def size_of(tokens: Tokens, cuts: list[Cut]) -> dict[str, int]:
    problem = AttentionProblem(tokens, cuts=cuts)
    packed = problem.packed(7)
    size = _C.plan_size(packed.numpy())
    other = 8 * len(tokens) + 8 * size["runs"] + 3 * size["spans"] + 2 * size["row_tiles"] + size["key_tiles"]
    assert packed.numel() <= other + 200  # docs/the-op.md: nothing else in it grows with the tokens
    return size


def test_the_plan_grows_as_the_tokens_where_groups_lie_in_long_stretches():
    """Spans of a row tile: one per change of the group that is cut, two where full tiles begin to be partial."""
    for n in (4096, 8192, 16384):
        group = (torch.arange(n) * 8 // n) % 2
        size = size_of(causal(n, group=group), [Cut(mask_of([0]), mask_of([1]))])
        assert size["spans"] <= size["row_tiles"] * (8 + 2)
        assert size_of(causal(n), [])["spans"] <= size["row_tiles"] * 2


def test_the_plan_of_interleaved_cuts_grows_as_the_square_up_to_its_bound():
    sizes = []
    for n in (4096, 8192):
        group = torch.arange(n) // 64 % 2  # a key tile of the one, a key tile of the other
        sizes.append(size_of(causal(n, group=group), [Cut(mask_of([0]), mask_of([1]))]))
        assert sizes[-1]["spans"] <= sizes[-1]["row_tiles"] * sizes[-1]["key_tiles"]
    assert 3.5 < sizes[1]["spans"] / sizes[0]["spans"] < 4.5  # if this is linear one day, docs/the-op.md changes too


# ---------------------------------------------------------------- memory and threads that are not given

INTERPOSED = r"""
#include <cerrno>
#include <cstdlib>
#include <new>

#include <dlfcn.h>
#include <pthread.h>

static bool no_memory, no_threads;
static thread_local bool spared;

extern "C" void refuse(bool memory_of_other_threads, bool threads) {
    spared = true, no_memory = memory_of_other_threads, no_threads = threads;
}

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*body)(void*), void* arg) {
    static const auto real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    return no_threads ? EAGAIN : real(thread, how, body, arg);
}

void* operator new(std::size_t bytes) {
    void* at = no_memory && !spared ? nullptr : std::malloc(bytes ? bytes : 1);
    return at ? at : throw std::bad_alloc();
}
void operator delete(void* at) noexcept { std::free(at); }
void operator delete(void* at, std::size_t) noexcept { std::free(at); }
"""

PLANS = """
import ctypes, torch
from avflow_ext import AttentionProblem, Cut, Tokens

refuse = ctypes.CDLL(None).refuse
refuse.argtypes = [ctypes.c_bool, ctypes.c_bool]
n = 12_000  # of one row a tile: 2.2 million pairs of tiles, enough for two threads
tokens = Tokens(torch.arange(n), torch.arange(n) // 100 % 2)

def plan():
    problem = AttentionProblem(tokens, cuts=[Cut(1, 2)])
    torch.set_num_threads(2)  # for the plan alone: torch's own threads know no way out
    try:
        return problem.packed(96)
    finally:
        torch.set_num_threads(1)

expected = plan()
refuse(True, False)
try:
    plan()
except MemoryError:
    print("MemoryError")
refuse(False, True)
print("without threads:", torch.equal(plan(), expected))
refuse(False, False)
print("afterwards:", torch.equal(plan(), expected))
"""


def test_a_plan_takes_no_more_threads_than_torch(monkeypatch):
    """What other threads of the process work meanwhile would show in its time beside this thread's."""
    asked, make = [], _C.pack
    monkeypatch.setattr(_C, "pack", lambda **given: asked.append(given["threads"]) or make(**given))
    n = 12_000
    tokens = Tokens(torch.arange(n), torch.arange(n) // 100 % 2)
    problem, before = AttentionProblem(tokens, cuts=[Cut(1, 2)]), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        began = time.process_time() - time.thread_time()
        one = problem.packed(96)
        assert time.process_time() - time.thread_time() - began < 0.01
        torch.set_num_threads(2)
        problem._packed.clear()
        assert torch.equal(problem.packed(96), one)
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2]
    monkeypatch.undo()
    nothing = np.zeros((0, 4), np.int32)
    with pytest.raises(ValueError, match="threads = 0"):
        pack(nothing, nothing, np.array([[-1, 0]], np.int32), threads=0)


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="interposes functions of Linux by g++"
)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: the plan takes no second thread")
def test_a_planning_thread_without_memory_is_a_memory_error(tmp_path):
    (tmp_path / "refuse.cpp").write_text(INTERPOSED)
    library = tmp_path / "refuse.so"
    command = ["g++", "-O1", "-shared", "-fPIC", tmp_path / "refuse.cpp", "-o", library, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    env = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", PLANS], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr  # an exception that leaves a thread aborts: -6
    assert ran.stdout.splitlines() == ["MemoryError", "without threads: True", "afterwards: True"]
