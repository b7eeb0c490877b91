"""libavflow by ctypes: the structs of avflow/avflow.h, and calls with torch tensors for their memory."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from dataclasses import dataclass, field

import torch
from binaries import LIBAVFLOW, library

from avflow_ext import ALL, Cut, Streams, Tokens

OK, INVALID, UNSUPPORTED, NO_MEMORY, DEVICE = range(5)
CPU, CUDA, CUDA_SM90A = range(3)
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

Body = ctypes.CFUNCTYPE(None, c_void_p, c_int64)
Run = ctypes.CFUNCTYPE(None, c_void_p, c_int64, c_void_p, c_void_p)


def struct(name: str, **fields) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


def several(kind, names: str) -> dict:
    return dict.fromkeys(names.split(), kind)


Threads = struct("AvflowThreads", run=Run, context=c_void_p, workers=c_int32)
Columns = struct("AvflowTokens", n=c_int64, **several(c_void_p, "order group item stream"))
CutRule = struct(
    "AvflowCut",
    **several(c_uint64, "source target heads threshold"),
    streams=c_void_p,
    n_streams=c_int64,
    seed=c_uint32,
    **several(c_int32, "other_items cut_self"),
)
Layout = struct(
    "AvflowLayout",
    size=c_size_t,
    **several(Columns, "rows keys"),
    **several(c_void_p, "keep_rows keep_keys"),
    **several(c_int64, "n_keep_rows n_keep_keys"),
    **several(c_void_p, "parent start"),
    n_streams=c_int64,
    cuts=POINTER(CutRule),
    n_cuts=c_int64,
    latest_order=POINTER(c_int32),
    **several(c_int32, "groups zero"),
    **several(c_void_p, "row_block key_block"),
    **several(c_int32, "window window_in_blocks"),
)
PlanInfo = struct(
    "AvflowPlanInfo",
    size=c_size_t,
    data=POINTER(c_int32),
    **several(c_int64, "words rows keys live_tiles"),
    **several(c_int32, "groups row_tiles key_tiles kernel"),
)
Attend = struct(
    "AvflowAttend",
    size=c_size_t,
    **several(c_void_p, "plan plan_on_device q k v out lse group_mass row_order"),
    **several(c_int64, "q_row q_head k_batch k_row k_head v_batch v_row v_head"),
    **several(c_int32, "batch slots head_dim type"),
    scale=c_float,
    workspace=c_void_p,
    workspace_bytes=c_size_t,
    threads=Threads,
    stream=c_void_p,
)
Norm = struct(
    "AvflowNorm",
    size=c_size_t,
    **several(c_void_p, "x weight keep kept normed"),
    **several(c_int64, "n m width x_row"),
    eps=c_float,
    **several(c_int32, "type kernel"),
    threads=Threads,
    stream=c_void_p,
)
Compaction = struct(
    "AvflowCompaction",
    size=c_size_t,
    **several(c_void_p, "x keep out"),
    **several(c_int64, "batch heads n m row_bytes x_batch x_head x_token"),
    kernel=c_int32,
    threads=Threads,
    stream=c_void_p,
)
Capabilities = struct(
    "AvflowCapabilities",
    size=c_size_t,
    **several(c_char_p, "cpu cpu_built cuda_archs"),
    **several(c_int32, "cuda_runtime cuda_sm90a max_heads max_groups max_head_dim key_tile"),
)
STRUCTS = (Threads, Columns, CutRule, Layout, PlanInfo, Attend, Norm, Compaction, Capabilities)


def load() -> ctypes.CDLL:
    lib = ctypes.CDLL(library(LIBAVFLOW))
    lib.avflow_last_error.restype = c_char_p
    lib.avflow_version.restype = c_uint32
    lib.avflow_plan_destroy.argtypes = [c_void_p]
    lib.avflow_plan_info.argtypes = [c_void_p, c_void_p]
    lib.avflow_choose_kernel.argtypes = [c_int32, c_int64, c_int32, c_int32, c_void_p]
    return lib


LIB = load()


class StatusError(Exception):
    """A call's status that is not OK, and the words to it."""

    def __init__(self, status: int) -> None:
        self.status, self.words = status, LIB.avflow_last_error().decode()
        super().__init__(f"status {status}: {self.words}")


def ok(status: int) -> None:
    if status != OK:
        raise StatusError(status)


def pool(workers: int) -> Threads:
    """A pool that runs every body in a thread of its own."""
    import threading

    @Run
    def run(_, n, body, arg):
        call = Body(body)
        threads = [threading.Thread(target=call, args=(arg, i)) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Threads(run, None, workers)


@dataclass
class Call:
    """The layout of a plan and the tensors of one call of attention; tests change the structs before they run."""

    q: torch.Tensor  # [rows, heads, d]
    k: torch.Tensor  # [keys, kv_heads, d] or [batch, slots, kv_heads, d]
    v: torch.Tensor
    rows: Tokens
    keys: Tokens | None = None
    streams: Streams | None = None
    cuts: tuple[Cut, ...] = ()
    keep_rows: list[int] | None = None
    keep_keys: list[int] | None = None
    latest_order: int | None = None
    row_order: torch.Tensor | None = None
    zero: bool = False
    kernel: int = CPU
    workers: int = 0
    window: int = 0
    blocks: str = "whole"
    held: list = field(default_factory=list)  # what the structs point to

    def __post_init__(self) -> None:
        self.heads, self.kv_heads = self.q.shape[1], self.k.shape[-2]
        self.threads = pool(self.workers) if self.workers else Threads()
        self.plan = c_void_p()
        self.layout = Layout(size=sizeof(Layout), zero=self.zero, rows=self._columns(self.rows))
        if self.keys is not None:
            self.layout.keys = self._columns(self.keys)
        self.layout.window, self.layout.window_in_blocks = self.window, self.blocks == "windowed"
        for name, tokens in (("row_block", self.rows), ("key_block", self.keys)):
            if self.blocks != "off" and tokens is not None and tokens.block is not None:
                setattr(self.layout, name, self._at(tokens.block))
        for name, keep in (("keep_rows", self.keep_rows), ("keep_keys", self.keep_keys)):
            if keep is not None:
                setattr(self.layout, name, self._at(torch.tensor(keep, dtype=torch.int32)))
                setattr(self.layout, f"n_{name}", len(keep))
        if self.streams is not None:
            self.layout.parent, self.layout.start = self._at(self.streams.parent), self._at(self.streams.start)
            self.layout.n_streams = len(self.streams)
        rules = (CutRule * max(len(self.cuts), 1))(*map(self._rule, self.cuts))
        self.layout.cuts, self.layout.n_cuts = ctypes.cast(rules, POINTER(CutRule)), len(self.cuts)
        self.held.append(rules)
        if self.latest_order is not None:
            self.layout.latest_order = ctypes.pointer(c_int32(self.latest_order))
        cached = self.k.dim() == 4
        self.attend = Attend(
            size=sizeof(Attend),
            q=self.q.data_ptr(),
            k=self.k.data_ptr(),
            v=self.v.data_ptr(),
            q_row=self.q.stride(0),
            q_head=self.q.stride(1),
            k_batch=self.k.stride(0) if cached else 0,
            k_row=self.k.stride(-3),
            k_head=self.k.stride(-2),
            v_batch=self.v.stride(0) if cached else 0,
            v_row=self.v.stride(-3),
            v_head=self.v.stride(-2),
            batch=self.k.shape[0] if cached else 1,
            slots=self.k.shape[-3],
            head_dim=self.q.shape[2],
            type=TYPES[self.q.dtype],
            scale=self.q.shape[2] ** -0.5,
            threads=self.threads,
            row_order=None if self.row_order is None else self.row_order.data_ptr(),
        )

    def _at(self, tensor: torch.Tensor) -> int:
        if tensor.numel() == 0:
            tensor = tensor.new_zeros(1)  # an empty list is a list: its pointer is not null
        self.held.append(tensor)
        return tensor.data_ptr()

    def _columns(self, tokens: Tokens) -> ctypes.Structure:
        return Columns(len(tokens), *map(self._at, (tokens.order, tokens.group, tokens.item, tokens.stream)))

    def _rule(self, cut: Cut) -> ctypes.Structure:
        streams = None if cut.streams is None else torch.tensor(cut.streams, dtype=torch.int32)
        rule = CutRule(cut.source, cut.target, ALL if cut.heads is None else cut.heads, cut.threshold)
        rule.streams, rule.n_streams = (None, 0) if streams is None else (self._at(streams), len(streams))
        rule.seed, rule.other_items, rule.cut_self = cut.seed, cut.scope == "other_items", cut.cut_self
        return rule

    def pack(self) -> ctypes.Structure:
        """Makes the plan; what it is."""
        LIB.avflow_plan_destroy(self.plan)
        self.plan = c_void_p()
        arguments = (byref(self.layout), self.kernel, self.heads, self.kv_heads, byref(self.threads), byref(self.plan))
        ok(LIB.avflow_plan_create(*arguments))
        self.attend.plan = self.plan
        info = PlanInfo(size=sizeof(PlanInfo))
        ok(LIB.avflow_plan_info(self.plan, byref(info)))
        return info

    def words(self, info: ctypes.Structure) -> torch.Tensor:
        return torch.tensor(info.data[: info.words], dtype=torch.int32)

    def run(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """out, lse and mass. Raises StatusError."""
        info = self.pack()
        out = torch.full((info.rows, self.heads, self.q.shape[2]), -7.0, dtype=self.q.dtype)
        lse = torch.full((info.rows, self.heads), -7.0)
        mass = torch.full((info.rows, self.heads, info.groups), -7.0)
        call, needed = self.attend, c_size_t()
        call.out, call.lse, call.group_mass = out.data_ptr(), lse.data_ptr(), mass.data_ptr()
        ok(LIB.avflow_attend_workspace(byref(call), byref(needed)))
        workspace = torch.empty(needed.value + 64, dtype=torch.uint8)
        call.workspace, call.workspace_bytes = (workspace.data_ptr() + 63) // 64 * 64, needed.value
        ok(LIB.avflow_attend(byref(call)))
        return out, lse, mass

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        LIB.avflow_plan_destroy(self.plan)
        self.plan = c_void_p()
