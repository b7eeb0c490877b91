"""Problems made inside a graph: `torch.ops.avflow.pack`, and what of its arguments is not a tensor already."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .tokens import ALL, Cut


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def cut_columns(cuts: Sequence[Cut]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts as the operator takes them: `torch.ops.avflow.pack(rows, *cut_columns(cuts), heads, kv_heads)`.

    `rows`: int32 [n, 4], on the CPU as all of these: order, group, item, stream; or [n, 5], block too. By name: keys
    as rows; streams [s, 2]: parent, start; keep_rows, keep_keys [k]; groups (0: as many as the keys have); zero;
    latest_order; device_type: "cpu", "cuda" or "hopper"; window (0: none); window_in_blocks: blocks are "windowed".
    They mean what they mean to `AttentionProblem`; the words and the errors are the same (ValueError; RuntimeError for
    a wrong dtype or shape).

    Returns:
        int64 [cuts, 8]: source, target, heads, threshold, seed, other_items, cut_self, and whether only some streams
        are cut; int32 [pairs, 2]: a cut, and a stream of it.
    """
    rules = [
        [
            _signed(cut.source),
            _signed(cut.target),
            _signed(ALL if cut.heads is None else cut.heads),
            cut.threshold,
            cut.seed,
            int(cut.scope == "other_items"),
            int(cut.cut_self),
            int(cut.streams is not None),
        ]
        for cut in cuts
    ]
    pairs = [[i, stream] for i, cut in enumerate(cuts) for stream in cut.streams or ()]
    return (
        torch.tensor(rules, dtype=torch.int64).reshape(-1, 8),
        torch.tensor(pairs, dtype=torch.int32).reshape(-1, 2),
    )
