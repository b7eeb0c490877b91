"""That the CUDA kernels put their accesses to shared memory in order: no schedule shows a fence that is missing.

In this build of the emulator all loads and stores of the kernels are followed, and a product or a copy of the copy
engine that may not see a write, or a thread that reads what another wrote without a barrier between, is an error
(helpers/cuda_emulator/ordering.h).
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


RANDOM_CUT = Cut(mask_of([1]), mask_of(range(4)), random_share=0.3, seed=1)
PROBLEMS = {
    "no cuts": lambda: last_rows(500),
    "full tiles alone": lambda: AttentionProblem(runs(544).select(torch.arange(512, 544)), runs(512)),
    "masks between full tiles": lambda: last_rows(500, cuts=[Cut(mask_of([1]), mask_of([3])), RANDOM_CUT]),
    "by head": lambda: last_rows(400, cuts=[Cut(mask_of([1]), mask_of(range(4)), heads=0b101)]),
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


FENCE, LANDING = r"\bshow_to_async\(\)", r"\bbarrier_wait\(&shared\.\w*landed\["


@pytest.mark.parametrize(
    "kind, fault",
    [(FENCE, "not shown to it: that thread"), (LANDING, "of the copy engine, which is not waited for")],
    ids=["fence", "landing"],
)
def test_each_is_needed(library, kind, fault):
    """Each fence or wait for a copy left out, something may not be seen; in both forms of the Hopper kernel."""
    places = set()
    for path in sorted((cuda_emulator.CSRC / "cuda").glob("*.cuh")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not re.search(kind, line):
                continue
            emulated = cuda_emulator.load(library, "pairs" if path.name.startswith("pairs") else "hopper")
            emulated.emulated_skip(f"/{path.name}".encode(), number)
            with pytest.raises(RuntimeError, match=fault):
                for name in ("full tiles alone", "masks between full tiles", "keys by ordinary copies"):
                    attend(emulated, name, schedule=0)
            places.add(path.name)
    assert places >= {"hopper_kernel.cuh", "pairs_consume.cuh"} and len(places) == 4 - (kind == LANDING)
    emulated.emulated_skip(b"", 0)
    for kernel in ("hopper", "pairs"):
        attend(cuda_emulator.load(library, kernel), "masks between full tiles", schedule=0)


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
