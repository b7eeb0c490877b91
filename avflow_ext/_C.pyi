# What csrc/python/module.cpp defines. tests/packaging/test_types.py compares the two.
from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

_Int32Array = npt.NDArray[np.int32]

class _CudaBuild(TypedDict):
    archs: str  # in CMake's words, such as "80-real 90-real 80-virtual"
    runtime: tuple[int, int]  # the CUDA runtime it links to: major, minor
    devices: int  # that the runtime sees
    hopper: bool  # whether the kernel of sm_90a is compiled
    error: str | None  # why it sees no device

__version__: str  # of the avflow that it was built from
KEY_TILE: int  # keys of one tile of the plan

class Cut:
    """One cut of one layer as the plan reads it; see avflow_ext.Cut."""

    def __init__(
        self,
        source: int,
        target: int,
        streams: Sequence[int] | None,
        other_items: bool,
        heads: int | None,
        cut_self: bool,
        threshold: int,
        seed: int,
    ) -> None: ...

def pack(
    rows: npt.NDArray[np.integer],
    keys: npt.NDArray[np.integer],
    streams: npt.NDArray[np.integer],
    cuts: Sequence[Cut],
    keep_rows: npt.NDArray[np.integer] | None,
    keep_keys: npt.NDArray[np.integer] | None,
    q_rows: int,
    k_rows: int,
    groups: int,
    tile_rows: int,
    zero: bool,
    latest_order: int | None,
    most_words: int = 2147483647,
    threads: int = 1,
    window: int = 0,
    window_in_blocks: bool = False,
    rows_apart: bool = False,
) -> _Int32Array:
    """The packed problem, int32 [words], of token columns rows [n, 4] and keys [m, 4] = (order, group, item, stream),
    or [n, 5] with the block in the end, keep lists already applied, and streams [s, 2] = (parent, start). window: 0
    for none. rows_apart: tiles of fewer than tile_rows, where that parts sequences that share no keys. At most
    `threads` threads make it, as many as pay. ValueError where it would have more than most_words, or threads is not
    positive."""

def tile_kinds(packed: npt.NDArray[np.integer]) -> _Int32Array:
    """What the plan decided for each pair of tiles: 0 skip, 1 partial, 2 full. int32 [row_tiles, key_tiles]."""

def plan_size(packed: npt.NDArray[np.integer]) -> dict[str, int]:
    """How large the plan of a packed problem is: {"tile_rows": of a row tile, "row_tiles", "key_tiles", "runs": of
    equal neighbours in the key tiles, "spans": stretches of key tiles of one kind over all row tiles, "tiles": key
    tiles in them}."""

def tile_rows(heads_per_kv_head: int, kernel: Literal["cpu", "cuda", "hopper"] = "cpu") -> int:
    """Rows of one tile of the plan that this kernel reads, at most."""

def cuda() -> _CudaBuild | None:
    """None where the module was built without CUDA, else the compiled archs and what its own runtime sees."""

def cpu_isa() -> str:
    """The path of the CPU kernels in use, one of `cpu_isas`: the best one here, or the one that was set."""

def force_tall(force: bool) -> None: ...
def set_cpu_isa(name: str) -> None:
    """Raises ValueError where this build or this processor lacks the path."""

def cpu_isas() -> list[str]:
    """The paths this build has, the fastest first."""
