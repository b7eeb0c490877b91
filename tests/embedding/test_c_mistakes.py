"""What a C program may get wrong: each is a status and words, and nothing is written."""

import ctypes
from ctypes import byref, c_int32, c_size_t, c_void_p, sizeof

import pytest
import torch
from c_api import (
    CUDA,
    CUDA_SM90A,
    INVALID,
    LIB,
    UNSUPPORTED,
    Attend,
    Call,
    Capabilities,
    CutRule,
    Layout,
    PlanInfo,
    Run,
    StatusError,
    ok,
)
from op_cases import qkv_of

from avflow_ext import Tokens, capabilities

N = 8
without_cuda = pytest.mark.skipif(capabilities()["cuda"] is not None, reason="this build has CUDA kernels")


def good(heads: int = 2, kv_heads: int = 1, **layout) -> Call:
    return Call(*qkv_of(N, N, heads, kv_heads, 64), Tokens(range(N), [0] * N, None, [0] * N), **layout)


def column(call: Call, side: str, name: str, values) -> None:
    held = torch.tensor(values, dtype=torch.int32)
    call.held.append(held)
    setattr(getattr(call.layout, side), name, held.data_ptr())


def keys_of_their_own(call: Call, name: str, values) -> None:
    call.layout.keys = call.layout.rows
    column(call, "keys", name, values)


def keep(call: Call, values, count=None) -> None:
    held = torch.tensor(values, dtype=torch.int32)
    call.held.append(held)
    call.layout.keep_keys = held.data_ptr()
    call.layout.n_keep_keys = len(values) if count is None else count


def streams(call: Call, parent, start=None) -> None:
    for name, values in (("parent", parent), ("start", start)):
        if values is not None:
            held = torch.tensor(values, dtype=torch.int32)
            call.held.append(held)
            setattr(call.layout, name, held.data_ptr())
    call.layout.n_streams = len(parent)


def one_cut(call: Call, **fields) -> None:
    rules = (CutRule * 1)(CutRule(1, 1, 1, 1, **fields))
    call.held.append(rules)
    call.layout.cuts, call.layout.n_cuts = rules, 1


def foreign_plan(call: Call) -> None:
    """Memory of zeros where a plan should lie: an empty vector of words."""
    memory = ctypes.create_string_buffer(256)
    call.held.append(memory)
    call.attend.plan = ctypes.addressof(memory)


def no_pool(call: Call, workers: int) -> None:
    call.attend.threads.run = Run(lambda *_: None)
    call.attend.threads.workers = workers


# What is wrong, before the plan is made; and what is, before it is used. The first are those of the embedding report.
LAYOUTS = {
    "kernel 7": (lambda c: setattr(c, "kernel", 7), "no kernel 7"),
    "a token of stream 5,000,000": (lambda c: column(c, "rows", "stream", [0] * 7 + [5000000]), "stream 5000000"),
    "a token of stream 5 of 1": (
        lambda c: (column(c, "rows", "stream", [0] * 7 + [5]), streams(c, [-1])),
        "a token belongs to stream 5, but only 1 streams",
    ),
    "a stream of -2": (lambda c: column(c, "rows", "stream", [-2] * 8), r"rows.stream\[0\] = -2"),
    "parent 7 of 1 stream": (lambda c: streams(c, [70000000]), r"parent\[0\] = 70000000: it must lie in -1..0"),
    "a parent with a parent": (lambda c: streams(c, [-1, 0, 1], [0, 1, 2]), "streams are one level deep"),
    "a parent and no start": (lambda c: streams(c, [-1, 0]), "start is null"),
    "a start of -2**31": (lambda c: streams(c, [-1, 0], [0, -(2**31)]), "make it a root"),
    "group 70": (lambda c: keys_of_their_own(c, "group", [0] * 7 + [70]), r"keys.group\[7\] = 70: groups are 0..63"),
    "orders fall": (
        lambda c: keys_of_their_own(c, "order", range(7, -1, -1)),
        r"keys: order must strictly increase within a stream; token 1 \(stream 0\) has order 6",
    ),
    "keep_keys beyond k": (lambda c: keep(c, [0, 1, 900000000]), r"keep_keys\[2\] = 900000000: there are 8 tokens"),
    "keep_keys of -1 entries": (lambda c: keep(c, [0], -1), "n_keep_keys = -1"),
    "n_keep_keys without a list": (lambda c: setattr(c.layout, "n_keep_keys", 3), "keep_keys is null"),
    "heads 3, kv 2": (lambda c: (setattr(c, "heads", 3), setattr(c, "kv_heads", 2)), "3 query heads over 2 kv heads"),
    "kv_heads 0": (lambda c: setattr(c, "kv_heads", 0), "must divide evenly"),
    "72 heads": (lambda c: setattr(c, "heads", 72), "64 at most"),
    "no order": (lambda c: setattr(c.layout.rows, "order", None), "rows.order or rows.group is null"),
    "too many rows": (lambda c: setattr(c.layout.rows, "n", 2**31), "rows.n = 2147483648"),
    "a size that is not set": (lambda c: setattr(c.layout, "size", 0), r"AvflowLayout.size = 0: set it to sizeof"),
    "a threshold beyond": (lambda c: (one_cut(c), setattr(c.layout.cuts[0], "threshold", 2**32 + 1)), "EVERY_EDGE"),
    "a cut of stream 3": (
        lambda c: (one_cut(c, n_streams=1), setattr(c.layout.cuts[0], "streams", c._at(torch.tensor([3]).int()))),
        r"cuts\[0\].streams\[0\] = 3: there are 1 streams",
    ),
    "groups 2 of 5": (
        lambda c: (keys_of_their_own(c, "group", [5] * 8), setattr(c.layout, "groups", 2)),
        "groups = 2: pass 6 .. 64",
    ),
    "latest_order below a row's": (lambda c: c.layout.__setattr__("latest_order", (c_int32 * 1)(3)), "begins at 4"),
    "a pool of no workers": (lambda c: setattr(c.threads, "run", Run(lambda *_: None)), "workers = 0"),
}
CALLS = {
    "plan null": (lambda c: setattr(c.attend, "plan", None), "plan is null"),
    "a plan that none is": (foreign_plan, "is no plan"),
    "workers 0": (lambda c: no_pool(c, 0), "threads.workers = 0: with a run, 1 at least"),
    "dtype 9": (lambda c: setattr(c.attend, "type", 9), "type = 9"),
    "head_dim 60": (lambda c: setattr(c.attend, "head_dim", 60), "head_dim 60: multiples of 8"),
    "head_dim 264": (lambda c: setattr(c.attend, "head_dim", 264), "up to 256"),
    "batch 0 (a struct of zeros)": (lambda c: setattr(c.attend, "batch", 0), "batch = 0"),
    "batch 3 of 8 keys": (lambda c: setattr(c.attend, "batch", 3), "the plan's 8 keys"),
    "slots 9 of 8": (lambda c: setattr(c.attend, "slots", 9), "slots = 9"),
    "q null": (lambda c: setattr(c.attend, "q", None), "q or out is null"),
    "v null": (lambda c: setattr(c.attend, "v", None), "k or v is null"),
    "a row_order that no plan asks for": (
        lambda c: setattr(c.attend, "row_order", c._at(torch.zeros(8, dtype=torch.int32))),
        "row_order belongs to a plan with latest_order",
    ),
    "scale infinite": (lambda c: setattr(c.attend, "scale", float("inf")), "scale = inf"),
    "a size that is not set": (lambda c: setattr(c.attend, "size", 0), "AvflowAttend.size = 0"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_makes_no_plan(name):
    spoil, words = LAYOUTS[name]
    with good() as call:
        spoil(call)
        call.plan = c_void_p(None)
        with pytest.raises(StatusError, match=words) as caught:
            call.pack()
        assert caught.value.status == INVALID and call.plan.value is None


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_does_not_run(name):
    spoil, words = CALLS[name]
    with good() as call:
        pack = call.pack

        def spoiled():
            info = pack()
            spoil(call)
            return info

        call.pack = spoiled
        with pytest.raises(StatusError, match=words) as caught:
            call.run()
        assert caught.value.status == INVALID


def test_orders_that_a_plan_asks_for():
    rows = torch.tensor([N - 1], dtype=torch.int32)
    layout = {"rows": Tokens([3], [0]), "keys": Tokens(range(N), [0] * N), "latest_order": N - 1}
    for order, words in ((None, "row_order belongs"), (2, r"row_order\[0\] = 2: .* 3 \.\. 7"), (N, r"\[0\] = 8")):
        given = None if order is None else torch.full_like(rows, order)
        with Call(*qkv_of(1, N, 2, 1, 64), **layout, row_order=given) as call:
            with pytest.raises(StatusError, match=words) as caught:
                call.run()
            assert caught.value.status == INVALID
    with Call(*qkv_of(1, N, 2, 1, 64), **layout, row_order=rows) as call:
        call.run()


def test_workspaces_that_do_not_do():
    with good() as call:
        out = call.run()[0]
        out.fill_(-7)
        call.attend.out, room = out.data_ptr(), torch.empty(call.attend.workspace_bytes + 128, dtype=torch.uint8)
        base, enough = (room.data_ptr() + 63) // 64 * 64, call.attend.workspace_bytes
        for at, size, words in ((base, enough - 1, "workspace_bytes"), (base + 8, enough, "64"), (None, enough, "64")):
            call.attend.workspace, call.attend.workspace_bytes = at, size
            with pytest.raises(StatusError, match=words):
                ok(LIB.avflow_attend(byref(call.attend)))
        assert bool((out == -7).all())


def test_null_where_an_answer_belongs():
    with good() as call:
        call.pack()
        for status in (
            LIB.avflow_plan_create(byref(call.layout), 0, 2, 1, None, None),
            LIB.avflow_plan_info(call.plan, None),
            LIB.avflow_plan_info(None, byref(PlanInfo(size=sizeof(PlanInfo)))),
            LIB.avflow_attend_workspace(byref(call.attend), None),
            LIB.avflow_attend(None),
            LIB.avflow_gather_norm(None),
            LIB.avflow_compact(None),
            LIB.avflow_capabilities(None),
            LIB.avflow_force_cpu(None),
        ):
            assert status == INVALID and b"null" in LIB.avflow_last_error()
    LIB.avflow_plan_destroy(None)


def test_an_unknown_path_of_the_cpu():
    assert LIB.avflow_force_cpu(b"sse9") == UNSUPPORTED
    assert LIB.avflow_last_error().startswith(b"this build or this processor has no path named sse9")


# ---------------------------------------------------------------- structs of another version


class NewerAttend(ctypes.Structure):
    _fields_ = [("known", Attend), ("later", c_size_t)]


class NewerInfo(ctypes.Structure):
    _fields_ = [("known", PlanInfo), ("later", c_size_t)]


def test_a_struct_of_a_newer_header_is_taken_while_its_new_fields_are_zero():
    with good() as call:
        call.run()
        newer = NewerAttend(known=call.attend)
        newer.known.size = sizeof(NewerAttend)
        needed = c_size_t()
        ok(LIB.avflow_attend_workspace(byref(newer), byref(needed)))
        assert needed.value == call.attend.workspace_bytes
        newer.later = 1
        assert LIB.avflow_attend_workspace(byref(newer), byref(needed)) == INVALID
        assert b"it is too old" in LIB.avflow_last_error()
        info = NewerInfo(later=5)
        info.known.size = sizeof(NewerInfo)
        ok(LIB.avflow_plan_info(call.plan, byref(info)))
        assert (info.known.rows, info.later, info.known.size) == (N, 0, sizeof(NewerInfo))


def test_a_struct_that_is_too_small_is_refused():
    for struct, call in ((Capabilities, LIB.avflow_capabilities), (Layout, None)):
        made = struct(size=sizeof(struct) - 8)
        status = call(byref(made)) if call else LIB.avflow_plan_create(byref(made), 0, 1, 1, None, byref(c_void_p()))
        assert status == INVALID and b"set it to sizeof" in LIB.avflow_last_error()


def test_failures_are_of_the_thread_that_failed():
    import threading

    LIB.avflow_force_cpu(b"here")
    seen = []

    def elsewhere():
        seen.append(LIB.avflow_last_error())
        LIB.avflow_force_cpu(b"there")
        seen.append(LIB.avflow_last_error())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen[0] == b"" and b"there" in seen[1] and b"here" in LIB.avflow_last_error()


# ---------------------------------------------------------------- CUDA, in a build without it


@without_cuda
def test_cuda_is_unsupported_where_it_is_not_compiled_in():
    kernel = c_int32()
    assert LIB.avflow_choose_kernel(0, 10000, 8, 2, byref(kernel)) == UNSUPPORTED
    for planned in (CUDA, CUDA_SM90A):  # plans are host code: they can be made anywhere
        with good(kernel=planned) as call:
            with pytest.raises(StatusError, match="no CUDA kernels") as caught:
                call.run()
            assert caught.value.status == UNSUPPORTED
