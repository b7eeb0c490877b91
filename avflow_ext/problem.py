"""One layer's attention problem: who is a row, who is a key, what is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ._load import _C
from .device import DTYPES, DeviceCopy, Kernel, cuda_kernel
from .tokens import BLOCKS, MAX_HEADS, SEMANTICS, Blocks, Cut, Integers, Semantics, Streams, Tokens

MAX_IMPLIED_STREAMS = 2**20  # of a problem without streams and with fewer tokens; each takes some 50 bytes of a plan


class AttentionOutput(NamedTuple):
    """What the attention op returns.

    Attributes:
        out: [rows, heads, d], dtype of q; exactly 0 where all edges of a row are cut.
        lse: float32 [rows, heads], natural log; -inf where a row sees nothing. None unless asked for.
        group_mass: float32 [rows, heads, groups], the share of attention that each group received. None unless asked.
    """

    out: torch.Tensor
    lse: torch.Tensor | None
    group_mass: torch.Tensor | None


def _keep(name: str, index: Integers | None, length: int) -> torch.Tensor | None:
    if index is None:
        return None
    index = torch.as_tensor(index)
    if index.numel() == 0:
        index = index.to(torch.int32)  # an empty list has no dtype of its own
    if index.dim() != 1 or index.dtype.is_floating_point or index.dtype == torch.bool:
        raise ValueError(f"{name} must be a 1-D list of integer positions, got {index.dtype} {tuple(index.shape)}")
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < length:
        raise IndexError(f"{name} reaches {int(index.min())} .. {int(index.max())}, there are {length} tokens")
    # A copy: the buffer is read when the problem is packed, and may hold other positions by then.
    return index.to(device="cpu", dtype=torch.int32, copy=True, memory_format=torch.contiguous_format)


def _check_increasing(name: str, tokens: Tokens) -> None:
    if (at := tokens.disorder) is not None:
        raise ValueError(
            f"{name}: order must strictly increase within a stream; token {at} (stream {int(tokens.stream[at])}) "
            f"has order {int(tokens.order[at])}"
        )


class AttentionProblem:
    """Rows, keys, streams and cuts of one layer, shared by its heads; build once, use for every call on that layout.

    Args:
        rows: tokens of the query rows, n_rows of them.
        keys: tokens of the keys; None where they are the rows.
        streams: parents and starts; None where every stream is a root of its own. Then streams are numbered below
            2**20, or below the number of tokens where that is more.
        cuts: what is cut in this layer.
        keep_rows, keep_keys: int lists, copied; only these rows / keys take part, gathered as they are read.
        groups: columns of `group_mass`; default 1 + the largest group among the keys.
        latest_order: the rows' orders come with each call, as its `row_order`: anything from `rows.order` to this. The
            plan holds whatever such an order may need, so that one problem serves while a sequence grows.
        window: only keys of order above the row's order - window are seen, as in layers with a sliding window; None:
            all of them.
        blocks: what the tokens' blocks do in this layer. "whole": tokens of one block see each other, whatever the
            window says; "windowed": the window hides keys of the own block too; "off": nothing.

    Raises:
        ValueError, IndexError: columns or lists that do not fit together; the message names the value.
    """

    _rows_apart = True  # on CUDA each sequence of a batch in row tiles of its own; benchmarks time it without

    def __init__(
        self,
        rows: Tokens,
        keys: Tokens | None = None,
        streams: Streams | None = None,
        cuts: Sequence[Cut] = (),
        keep_rows: Integers | None = None,
        keep_keys: Integers | None = None,
        groups: int | None = None,
        latest_order: int | None = None,
        window: int | None = None,
        blocks: Blocks = "whole",
    ) -> None:
        keys = rows if keys is None else keys
        self.n_rows, self.n_keys = len(rows), len(keys)  # of q and of k, v as they are passed
        self.keep_rows = _keep("keep_rows", keep_rows, len(rows))
        self.keep_keys = _keep("keep_keys", keep_keys, len(keys))
        self.rows = rows if self.keep_rows is None else rows.select(self.keep_rows)
        self.keys = keys if self.keep_keys is None else keys.select(self.keep_keys)
        top = max([t.top_stream for t in (self.rows, self.keys) if len(t)], default=0)
        most = max(MAX_IMPLIED_STREAMS, self.n_rows + self.n_keys)
        if streams is None and top >= most:
            raise ValueError(
                f"Tokens.stream holds {top}: without streams, each up to the largest is a root of its own, and {most} "
                "are the most here; number the streams from 0, or pass streams"
            )
        self.streams = Streams.roots(top + 1) if streams is None else streams
        if top >= len(self.streams):
            raise ValueError(f"a token belongs to stream {top}, but only {len(self.streams)} streams are given")
        self.cuts = tuple(cuts)
        for cut in self.cuts:
            if cut.streams is not None and any(not 0 <= s < len(self.streams) for s in cut.streams):
                raise ValueError(f"Cut.streams = {cut.streams}: there are {len(self.streams)} streams")
        _check_increasing("rows", self.rows)
        if self.keys is not self.rows:  # a walk's keys are its rows, in every layer
            _check_increasing("keys", self.keys)
        seen = 1 + (int(self.keys.group.numpy().max()) if len(self.keys) else -1)
        self.groups = max(seen, 1) if groups is None else groups
        if not max(seen, 1) <= self.groups <= 64:
            raise ValueError(f"groups = {groups}: pass {max(seen, 1)} .. 64, more than the keys' largest group")
        self.latest_order = latest_order
        if latest_order is not None:
            first = [int(self.rows.order.numpy().max())] if len(self.rows) else []
            if not max([-(2**31), *first]) <= latest_order < 2**31:
                raise ValueError(
                    f"latest_order = {latest_order}: rows begin at {first[0] if first else 'no'} order, and int32 ends "
                    f"at {2**31 - 1}; pass the largest order that any row may have"
                )
        if window is not None and not 1 <= window < 2**31:
            raise ValueError(f"window = {window}: pass how many orders a row sees, 1 .. 2**31 - 1, or None for all")
        if blocks not in BLOCKS:
            raise ValueError(f"blocks = {blocks!r}: pass one of {', '.join(BLOCKS)}")
        self.window, self.blocks = window, blocks
        self._packed: dict[tuple[int, str, str], torch.Tensor] = {}
        self._copies: dict[tuple[int, str, int], DeviceCopy] = {}

    def packed(
        self, heads_per_kv_head: int, semantics: Semantics = "renormalize", device_type: Kernel = "cpu"
    ) -> torch.Tensor:
        """The buffer the kernels read, int32 [words]: columns, cuts and block plan. Built once, then kept.

        It lies on the CPU; `device_type`: whose row tiles it is planned for: "cpu", "cuda", or "hopper", the large ones
        of the kernel of sm_90a and, on other devices, of the tall one. How large it gets is said in docs/the-op.md.

        Raises:
            ValueError: heads_per_kv_head below 1, semantics or a device_type that are not known, or a plan of more than
                2**31 words.
            MemoryError: there is no memory for the plan.
        """
        if heads_per_kv_head < 1:
            raise ValueError(f"heads_per_kv_head = {heads_per_kv_head}: pass query heads // key heads, 1 at least")
        if semantics not in SEMANTICS:
            raise ValueError(f"semantics = {semantics!r}: pass one of {', '.join(SEMANTICS)}")
        key = (heads_per_kv_head, semantics, device_type)
        if key not in self._packed:
            if torch.compiler.is_compiling():
                # Without fullgraph the frame then runs as it is, and the call succeeds.
                raise RuntimeError(
                    f"this AttentionProblem is not packed yet, which torch.compile cannot trace: call problem.packed("
                    f"{heads_per_kv_head}) or attention once before the compiled function, or pass columns of tokens "
                    "and make the problem inside the graph by torch.ops.avflow.pack (docs/the-op.md)"
                )
            cuts = [
                _C.Cut(
                    source=cut.source,
                    target=cut.target,
                    streams=None if cut.streams is None else list(cut.streams),
                    other_items=cut.scope == "other_items",
                    heads=cut.heads,
                    cut_self=cut.cut_self,
                    threshold=cut.threshold,
                    seed=cut.seed,
                )
                for cut in self.cuts
            ]
            both_ways = self.blocks != "off"
            words = _C.pack(
                rows=self.rows.matrix if both_ways else self.rows.matrix[:, :4],
                keys=self.keys.matrix if both_ways else self.keys.matrix[:, :4],
                streams=self.streams.matrix,
                cuts=cuts,
                keep_rows=None if self.keep_rows is None else self.keep_rows.numpy(),
                keep_keys=None if self.keep_keys is None else self.keep_keys.numpy(),
                q_rows=self.n_rows,
                k_rows=self.n_keys,
                groups=self.groups,
                tile_rows=_C.tile_rows(heads_per_kv_head, device_type),
                zero=semantics == "zero",
                latest_order=self.latest_order,
                threads=torch.get_num_threads(),
                window=self.window or 0,
                window_in_blocks=self.blocks == "windowed",
                rows_apart=self._rows_apart and device_type == "cuda",
            )
            self._packed[key] = torch.from_numpy(words)
        return self._packed[key]

    def packed_on(
        self, device: torch.device, heads_per_kv_head: int, semantics: Semantics = "renormalize"
    ) -> torch.Tensor:
        """The same buffer on a CUDA device, uploaded once, then kept; call it before a CUDA graph is captured."""
        index = torch.cuda.current_device() if device.index is None else device.index
        key = (heads_per_kv_head, semantics, index)
        if key not in self._copies:
            kernel = cuda_kernel(index, len(self.rows), heads_per_kv_head, len(self.streams))
            self._copies[key] = DeviceCopy(self.packed(heads_per_kv_head, semantics, kernel), index)
        return self._copies[key].get()


def check_inputs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    problem: AttentionProblem,
    scale: float | None,
    semantics: Semantics,
    row_order: torch.Tensor | None = None,
) -> float:
    """The scale to use, or an error that names what does not fit."""
    q_shape, k_shape = q.shape, k.shape  # asked for once: torch makes a tuple each time
    if len(q_shape) != 3 or len(k_shape) not in (3, 4):
        raise ValueError(
            f"q is {tuple(q_shape)}, k is {tuple(k_shape)}: pass q [rows, heads, d], k [keys, kv_heads, d] or "
            "[batch, slots, kv_heads, d]"
        )
    if k_shape != v.shape:
        raise ValueError(f"k is {tuple(k_shape)}, v is {tuple(v.shape)}: they must have one shape")
    rows, heads, d = q_shape
    kv_heads = k_shape[-2]
    if d != k_shape[-1]:
        raise ValueError(f"head_dim of q is {d}, of k is {k_shape[-1]}: they must agree")
    if d == 0 or d % 8 or d > 256:
        raise ValueError(f"head_dim {d}: multiples of 8 up to 256 are supported")
    if kv_heads == 0 or heads == 0 or heads % kv_heads:
        raise ValueError(f"{heads} query heads do not divide among {kv_heads} key heads")
    if heads > MAX_HEADS:
        raise ValueError(f"{heads} query heads: {MAX_HEADS} are the most")
    if rows != problem.n_rows or (len(k_shape) == 3 and k_shape[0] != problem.n_keys):
        raise ValueError(
            f"q has {rows} rows and k {k_shape[0]} keys, the problem {problem.n_rows} rows and {problem.n_keys} keys"
        )
    if len(k_shape) == 4:
        batch, slots = k_shape[:2]
        if batch == 0 or problem.n_keys % batch or problem.n_keys // batch < slots:
            raise ValueError(
                f"k is {tuple(k_shape)}: the problem's {problem.n_keys} keys must be {batch} batches of one capacity, "
                f"{slots} slots or more"
            )
    if not (q.dtype == k.dtype == v.dtype) or q.dtype not in DTYPES:
        raise TypeError(f"q, k, v are {q.dtype}, {k.dtype}, {v.dtype}: pass one of float32, bfloat16, float16 for all")
    if not (q.device == k.device == v.device):
        raise ValueError(f"q, k, v lie on {q.device}, {k.device}, {v.device}: pass them on one device")
    if semantics not in SEMANTICS:
        raise ValueError(f"semantics = {semantics!r}: pass one of {', '.join(SEMANTICS)}")
    if (row_order is None) != (problem.latest_order is None):
        raise ValueError("row_order and the problem's latest_order belong together: pass both or neither")
    if row_order is not None:
        if row_order.dtype != torch.int32 or row_order.shape != (len(problem.rows),):
            raise ValueError(
                f"row_order is {row_order.dtype} {tuple(row_order.shape)}: pass int32 [{len(problem.rows)}], one order "
                "per kept row"
            )
        if row_order.device != q.device:
            raise ValueError(f"row_order lies on {row_order.device}, q on {q.device}: pass them on one device")
    scale = d**-0.5 if scale is None else float(scale)
    if not abs(scale) < math.inf:  # a comparison, which a trace with symbolic sizes understands
        raise ValueError(f"scale = {scale}: pass a finite number")
    return scale
