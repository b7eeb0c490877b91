"""That the CUDA kernels put their accesses to shared memory in order: no schedule shows a fence that is missing, and
few show a place that is filled again before its last reader has let go of it.

In this build of the emulator all loads and stores of the kernels are followed, and so are products and copies. An error
is what may not see a write that it should, or writes over what may still be read (helpers/cuda_emulator/ordering.h).
"""

import re

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, EVERYTHING, runs
from op_cases import qkv

from avflow_ext import AttentionProblem, Cut, mask_of


@pytest.fixture(scope="module")
def library(compiler, tmp_path_factory):
    return cuda_emulator.build(compiler, tmp_path_factory.mktemp("ordering"), ordering=True)


@pytest.fixture(params=["cuda", "tall", "hopper", "pairs"])
def ordered(library, request):
    loaded = cuda_emulator.load(library, request.param)
    loaded.emulated_skip(b"", 0)  # what a test that failed may have left out
    return loaded


def last_rows(n: int, rows: int = 32, **more) -> AttentionProblem:
    keys = runs(n, run=70)
    return AttentionProblem(keys.select(torch.arange(n - rows, n)), keys, **more)


def full_tiles(count: int) -> AttentionProblem:
    """Rows that see all keys."""
    n = 64 * count
    return AttentionProblem(runs(n + 32).select(torch.arange(n, n + 32)), runs(n))


RANDOM_CUT = Cut(mask_of([1]), mask_of(range(4)), random_share=0.3, seed=1)
PROBLEMS = {
    "no cuts": lambda: last_rows(500),
    "full tiles alone": lambda: full_tiles(8),
    "masks between full tiles": lambda: last_rows(500, cuts=[Cut(mask_of([1]), mask_of([3])), RANDOM_CUT]),
    "by head": lambda: last_rows(400, cuts=[Cut(mask_of([1]), mask_of(range(4)), heads=0b101)]),
    "three full tiles": lambda: full_tiles(3),
    "four full tiles": lambda: full_tiles(4),
    "keys by ordinary copies": lambda: last_rows(400, keep_keys=torch.arange(399), cuts=[RANDOM_CUT]),
    "few rows": lambda: last_rows(400, 2, cuts=[RANDOM_CUT]),
    "few rows, keys split": lambda: last_rows(1400, 2, cuts=[RANDOM_CUT]),
    "keys split": lambda: last_rows(1400, cuts=[RANDOM_CUT]),
}


def attend(library, name: str, schedule: int, d: int = 64, **options) -> None:
    problem = PROBLEMS[name]()
    q, k, v = qkv(problem, 4, 1, d, dtype=BF16)
    v[::61, :, 5] = torch.inf  # values that a thread takes out
    cuda_emulator.attention(library, q, k, v, problem, scale=-0.1, schedule=schedule, **options)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_kernels_put_their_accesses_in_order(ordered, name):
    attend(ordered, name, schedule=cuda_emulator.SCHEDULES)
    attend(ordered, name, schedule=1, d=128 if name == "no cuts" else 64, **EVERYTHING)


@pytest.mark.parametrize("width", [65, 2048])
def test_sums_over_a_block_are_in_order(library, width):
    x, weight = torch.randn(3, width).to(BF16), torch.randn(width).to(BF16)
    emulated = cuda_emulator.load(library, "cuda")
    keep = torch.tensor([2, 0], dtype=torch.int32)
    for schedule in range(cuda_emulator.SCHEDULES):
        cuda_emulator.gather_rms_norm(emulated, x, weight, 1e-6, keep, schedule=schedule)


# ---------------------------------------------------------------- each thing that sorts accesses, left out

SORTS = re.compile(
    r"\b(sync_(block|warp|warpgroup)(_any)?|barrier_wait|barrier_arrive(_for)?|products_wait|copy_wait|show_to_async)"
    r"(<[^()]*>)?\("
)
FAULTS = "without a barrier between|not shown to it|not waited for|may still read|never arrive"  # last: a lost phase
BY_RING = ["masks between full tiles", "four full tiles", "full tiles alone", "keys by ordinary copies"]
FILES = {  # of each kernel, with the problems that come by all that sorts its accesses
    "attend": ("cuda", ["attention_kernel", "rows"], ["three full tiles", "masks between full tiles"]),
    "few rows": ("cuda", ["few_rows_kernel"], ["few rows"]),
    "tall": ("tall", ["tall_kernel", "rows"], ["masks between full tiles", "keys split"]),
    "wide": ("hopper", ["hopper_kernel", "rows"], BY_RING),
    "pairs": ("pairs", ["pairs_kernel", "pairs_produce", "pairs_consume", "rows"], [*BY_RING, "no cuts"]),
    "merge": ("cuda", ["merge_kernel"], ["few rows, keys split"]),
}
# What may be left out as far as the order goes.
NEEDLESS = {
    "wide": [
        ("hopper_kernel", "sync_warp();"),  # behind what find_part leaves: for the pairs form
        # What the engine brings is in order behind its barriers by itself; the one who tells it arrives to be counted.
        ("hopper_kernel", "barrier_arrive(&shared.landed[stage]);"),
        ("hopper_kernel", "barrier_arrive_for(&shared.landed[stage], Ring<kDepth>::kStageBytes);"),
        ("hopper_kernel", "if (kFetches && mapped) barrier_arrive(&shared.landed[stage]);"),
        ("hopper_kernel", "barrier_arrive_for(&shared.landed[stage], Ring<kDepth>::kStageBytes);"),
        ("hopper_kernel", "if (!mapped) copy_wait<0>();"),  # of empty groups
        ("hopper_kernel", "products_wait<1>();"),  # for the scores; the outputs are waited for before the tile is free
        ("hopper_kernel", "products_wait<0>();"),  # the first scores: the same
        ("hopper_kernel", "products_wait<0>();"),  # the last outputs: nothing comes behind them
    ],
    "pairs": [  # of these two either shows the masks' warps that consumers are done with the words of an earlier step
        ("pairs_produce", "barrier_arrive_for(landed, PairRing<kDepth>::kBytes);"),
        ("pairs_produce", "if (of >= shared.plain) barrier_arrive(&shared.asked[(of - shared.plain) % kRing]);"),
    ],
}


def places(file: str):
    """Lines that sort accesses."""
    lines = (cuda_emulator.CSRC / "cuda" / f"{file}.cuh").read_text().splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if SORTS.search(line.split("//")[0])]


def is_noticed(emulated, file: str, number: int, problems: list[str], visit: int = -1) -> bool:
    """In the schedule in which all threads run in step, so that chance has no part in it."""
    emulated.emulated_skip(f"/{file}.cuh".encode(), number, visit)
    try:
        for name in problems:
            try:
                attend(emulated, name, schedule=0)
            except RuntimeError as error:
                if re.search(FAULTS, str(error)):
                    return True
        return False
    finally:
        emulated.emulated_skip(b"", 0, -1)


@pytest.mark.parametrize("name", FILES)
def test_each_is_needed(library, name):
    kernel, files, problems = FILES[name]
    emulated = cuda_emulator.load(library, kernel)
    all_places = [(file, *place) for file in files for place in places(file)]
    unnoticed = [(file, line) for file, at, line in all_places if not is_noticed(emulated, file, at, problems)]
    assert unnoticed == NEEDLESS.get(name, []) and len(all_places) > len(unnoticed)
    assert not any(is_noticed(emulated, "", 0, [problem]) for problem in problems)


@pytest.mark.parametrize(
    "problem, meetings", [("three full tiles", 1 + 3 * 2), ("masks between full tiles", 1 + 3 * 2 + 5 * 3)]
)
def test_each_meeting_of_the_tall_kernel_is_needed(library, problem, meetings):
    """Its barriers stand in one line: before the first tile, then two a tile without a mask and three a tile with one.
    Behind the last nothing is brought any more.
    """
    emulated = cuda_emulator.load(library, "tall")
    at = next(number for number, line in places("tall_kernel") if line == "sync_block();")
    noticed = [is_noticed(emulated, "tall_kernel", at, [problem], visit) for visit in range(meetings + 1)]
    assert noticed == [True] * (meetings - 1) + [False] * 2


@pytest.mark.slow
@pytest.mark.parametrize("form", [0, 1])
def test_forms_to_compare_with(compiler, tmp_path, form):
    """Where the warpgroup that fetches works out the words as well."""
    library = cuda_emulator.build(compiler, tmp_path, ordering=True, form=form)
    for kernel in ("cuda", "hopper"):  # the tall one has no forms
        for problem in (*BY_RING, "keys split"):
            test_the_kernels_put_their_accesses_in_order(cuda_emulator.load(library, kernel), problem)
    emulated = cuda_emulator.load(library, "hopper")
    unnoticed = [
        ("hopper_kernel", line)
        for at, line in places("hopper_kernel")
        if not is_noticed(emulated, "hopper_kernel", at, BY_RING)
    ]
    # Nobody runs fetch_tiles; and what a whole tile's `ready` shows, that of `landed` does too: one thread writes both.
    apart = [line for at, line in places("hopper_kernel") if "[stage], n / kStages" in line or "consumers wait" in line]
    assert sorted(unnoticed) == sorted([*NEEDLESS["wide"], *(("hopper_kernel", line) for line in apart)])


BEFORE_ARRIVAL, AFTER_ARRIVAL, BEFORE_WAIT, WAIT, AFTER_WAIT, READ = (1 << i for i in range(6))


@pytest.mark.parametrize(
    "steps, fault",
    [
        (BEFORE_ARRIVAL | WAIT, None),
        (WAIT | AFTER_WAIT, None),
        (WAIT, "not shown"),
        (AFTER_ARRIVAL | WAIT, "not shown"),
        (BEFORE_WAIT | WAIT, "not shown"),
        (BEFORE_ARRIVAL, "not shown"),
        (BEFORE_ARRIVAL | AFTER_WAIT, "not shown"),
        (WAIT | READ, None),  # between threads a barrier is enough
        (READ, "without a barrier"),
        (BEFORE_ARRIVAL | AFTER_WAIT | READ, "without a barrier"),  # a fence is none
    ],
)
def test_where_a_fence_counts(library, steps, fault):
    emulated = cuda_emulator.load(library, "hopper")
    assert emulated.emulated_probe(steps) == (2 if fault else 0)
    if fault:
        assert fault in emulated.emulated_error().decode()


THREADS_READ, MATRIX_LOADS, PRODUCTS, OWN_COPIES = HOLDERS = range(4)
REFILLS = {"thread": 0, "own copy": 1, "copy engine": 2}
WAIT_FIRST, MEET, WAIT_FOR = 1, 2, 4  # for products and copies, before letting go; the warp; the other thread


@pytest.mark.parametrize("refill", REFILLS)
@pytest.mark.parametrize(
    "holder, steps, fault",
    [
        *((holder, WAIT_FIRST | MEET | WAIT_FOR, None) for holder in HOLDERS),
        *((holder, WAIT_FIRST | MEET, "may still read") for holder in (THREADS_READ, MATRIX_LOADS, PRODUCTS)),
        # A lane that arrives speaks for itself alone, but products are waited for by the warp.
        *((holder, WAIT_FIRST | WAIT_FOR, "thread [0-9]+ may still read") for holder in (THREADS_READ, MATRIX_LOADS)),
        (PRODUCTS, WAIT_FIRST | WAIT_FOR, None),
        (PRODUCTS, MEET | WAIT_FOR, "a product of warp [0-3] may still read"),
        (THREADS_READ, MEET | WAIT_FOR, None),
        (OWN_COPIES, MEET | WAIT_FOR, "a copy of thread [01], which is not waited for"),
        (OWN_COPIES, WAIT_FIRST | MEET, "thread [01]"),
    ],
)
def test_when_a_place_is_free_again(library, refill, holder, steps, fault):
    emulated = cuda_emulator.load(library, "hopper")
    assert emulated.emulated_probe_refill(holder, REFILLS[refill], steps) == (2 if fault else 0)
    if fault:
        assert re.search(fault, emulated.emulated_error().decode())
