"""Attention through libavflow's C interface: the very bits of the operator, on every path of the CPU."""

import sys

import planning_threads
import pytest
import torch
from c_api import LIB, Body, Call, Capabilities, Run, byref, ok, sizeof
from op_cases import qkv_of

from avflow_ext import ALL, AttentionProblem, Cut, Streams, Tokens, attention, capabilities, mask_of


def items(n: int, a_group: int) -> Tokens:
    return Tokens(range(n), [min(i // a_group, 7) for i in range(n)], [i // 10 for i in range(n)])


def plain():
    return qkv_of(300, 300, 8, 2, 64), {"rows": items(300, 40)}


def cuts():
    rules = (
        Cut(mask_of([1]), mask_of([4, 5])),
        Cut(mask_of([0, 2]), mask_of([6]), scope="other_items", cut_self=True),
        Cut(ALL, mask_of([7]), heads=mask_of([1, 3])),
        Cut(mask_of([0, 1, 2]), mask_of([3]), random_share=0.3, seed=5),
    )
    return qkv_of(300, 300, 8, 2, 64, torch.bfloat16), {"rows": items(300, 40), "cuts": rules}


def zero():
    return qkv_of(300, 300, 4, 4, 128), {
        "rows": items(300, 40),
        "cuts": (Cut(mask_of([1]), mask_of([4, 5])),),
        "zero": True,
    }


def keep():
    rules = (Cut(mask_of([1]), mask_of([4, 5])),)
    kept = {"keep_rows": list(range(10, 300, 3)), "keep_keys": list(range(0, 300, 2))}
    return qkv_of(300, 300, 8, 1, 64, torch.float16), {"rows": items(300, 40), "cuts": rules, **kept}


def streams():
    """A root of 200 tokens, and five that leave it after 150."""
    order = [*range(200), *(list(range(150, 200)) * 5)]
    group = [0] * 100 + [1] * 50 + [2] * 300
    stream = [0] * 200 + [s for s in range(1, 6) for _ in range(50)]
    rules = (
        Cut(mask_of([0]), mask_of([2]), streams=(1, 3)),
        Cut(mask_of([1]), mask_of([2]), streams=(2,)),
        Cut(mask_of([0, 1]), mask_of([2]), streams=(5,)),
    )
    return qkv_of(450, 450, 12, 2, 128, torch.bfloat16), {
        "rows": Tokens(order, group, None, stream),
        "streams": Streams([-1, 0, 0, 0, 0, 0], [0, 150, 150, 150, 150, 150]),
        "cuts": rules,
    }


def decode():
    """Two sequences from one cache of 128 slots, of which 96 are held."""
    q, k, v = qkv_of(2, 2 * 96, 8, 2, 64, torch.bfloat16)
    return (q, k.view(2, 96, 2, 64), v.view(2, 96, 2, 64)), {
        "rows": Tokens([40, 50], [4, 4], None, [0, 1]),
        "keys": Tokens(list(range(128)) * 2, [4] * 256, None, [0] * 128 + [1] * 128),
        "streams": Streams.roots(2),
        "latest_order": 127,
        "row_order": torch.tensor([77, 90], dtype=torch.int32),
    }


def big():
    rules = (Cut(mask_of([1]), mask_of([6])),)
    return qkv_of(1200, 1200, 8, 2, 128, torch.bfloat16), {"rows": items(1200, 170), "cuts": rules}


CASES = (plain, cuts, zero, keep, streams, decode, big)


def by_torch(tensors, layout):
    """The operator's answer, and the problem it was given."""
    given = {k: v for k, v in layout.items() if k not in ("zero", "row_order")}
    problem = AttentionProblem(**given)
    semantics = "zero" if layout.get("zero") else "renormalize"
    wanted = {"return_lse": True, "return_group_mass": True, "row_order": layout.get("row_order")}
    return attention(*tensors, problem, semantics=semantics, **wanted), problem.packed(
        tensors[0].shape[1] // tensors[1].shape[-2], semantics
    )


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_bits_are_those_of_the_operator(isa, case, workers):
    tensors, layout = case()
    (out, lse, mass), packed = by_torch(tensors, layout)
    with Call(*tensors, **layout, workers=workers) as call:
        ours = call.run()
        assert torch.equal(call.words(call.pack()), packed)
    for mine, theirs in zip(ours, (out, lse, mass), strict=True):
        assert torch.equal(mine.view(torch.uint8), theirs.contiguous().view(torch.uint8))


def test_what_is_not_asked_for_is_not_written():
    tensors, layout = plain()
    with Call(*tensors, **layout) as call:
        out, _, _ = call.run()
        call.attend.lse = call.attend.group_mass = None
        again = torch.empty_like(out)
        call.attend.out = again.data_ptr()
        workspace = torch.empty(call.attend.workspace_bytes + 64, dtype=torch.uint8)
        call.attend.workspace = (workspace.data_ptr() + 63) // 64 * 64
        ok(LIB.avflow_attend(byref(call.attend)))
        assert torch.equal(out, again)


def test_a_plan_packed_by_a_pool_of_many_has_the_same_words():
    """Enough tiles that more than one worker gets some: 96 rows and 64 keys each."""
    n = 12000
    rows = Tokens(range(n), [i // 7 % 2 for i in range(n)])
    tensors = qkv_of(1, 1, 1, 1, 8)
    packed = []
    for workers in (0, 7):
        with Call(*tensors, rows=rows, cuts=(Cut(1, 2),), workers=workers) as call:
            packed.append(call.words(call.pack()))
    assert torch.equal(*packed)
    assert torch.equal(packed[0], AttentionProblem(rows, cuts=[Cut(1, 2)]).packed(1))


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_large_plan_takes_the_workers_that_are_handed_in_and_no_thread_of_its_own():
    rows, cuts = planning_threads.columns()
    tensors, packed = qkv_of(1, 1, planning_threads.HEADS, 1, 8), []
    for workers in (0, 1, 2):
        with Call(*tensors, rows=rows, cuts=tuple(cuts), workers=workers) as call:
            handed = []

            @Run
            def one_by_one(_, n, body, arg, handed=handed):
                handed.append(n)
                for worker in range(n):
                    Body(body)(arg, worker)

            if workers:
                call.threads.run = one_by_one
            plan = lambda call=call: packed.append(call.words(call.pack()))  # noqa: E731
            assert planning_threads.planners(plan) == 1  # the one that calls
            assert handed == [workers][: workers > 0]
    assert torch.equal(packed[0], packed[1]) and torch.equal(packed[0], packed[2])


def test_what_the_build_says_of_itself():
    can = Capabilities(size=sizeof(Capabilities))
    ok(LIB.avflow_capabilities(byref(can)))
    known = capabilities()
    assert can.cpu.decode() == known["cpu"] and can.cpu_built.decode().split() == known["cpu_built"]
    assert (can.cuda_archs is None) == (known["cuda"] is None)
    assert (can.max_heads, can.max_groups, can.max_head_dim, can.key_tile) == (64, 64, 256, 64)
    import avflow

    assert LIB.avflow_version() == int("".join(f"{int(n):02x}" for n in avflow.__version__.split(".")[:3]), 16)
