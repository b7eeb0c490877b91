"""Rows per layer and blocks per group are those of the schedule's arithmetic, and every block comes back."""

import numpy as np
import pytest
from served import BLOCK, LAYERS, NEEDS_RUNS, NEW, SCHEDULES, rows_per_layer, schedule_file

from avflow.eviction.leaving import leaves_after
from avflow.eviction.vllm_groups import count, group_size, segments
from avflow.prompts.groups import GroupTable
from avflow_vllm import counters
from avflow_vllm.client import extra_args
from avflow_vllm.metrics import work_of
from avflow_vllm.names import OFF
from avflow_vllm.plan import Plan, runs_of


def plan_of_prompt(name, one):
    table = GroupTable()
    after = leaves_after(SCHEDULES[name], table, table.ids(one.prompt.groups), np.array(one.prompt.items))
    return Plan(sorted({step.after for step in SCHEDULES[name]}), runs_of(after), len(one.prompt))


@pytest.mark.parametrize("name", SCHEDULES)
def test_rows_and_blocks(name, asked, engine, tmp_path):
    served = engine(avflow={"schedule": schedule_file(name, tmp_path)})
    ends = sorted({step.after for step in SCHEDULES[name]})
    assert len(served.segments()) == count(LAYERS, ends)
    for one in asked[:3]:
        counters.HERE.computed = counters.HERE.total = 0
        served.held.clear()
        served.generate([one.request()], [extra_args(one.prompt) if name in NEEDS_RUNS else None])
        per_layer = rows_per_layer(name, one.prompt)
        assert counters.HERE.computed == sum(per_layer) + LAYERS * (NEW - 1)
        assert counters.HERE.total == LAYERS * (len(one.prompt) + NEW - 1)
        ((tokens, blocks),) = served.held.values()
        assert tokens == len(one.prompt) + NEW - 1
        starts = [0, *(end + 1 for end in ends)]
        rows = [per_layer[starts[segment]] + NEW - 1 for segment in served.segments()]
        assert blocks == [-(-count // BLOCK) for count in rows]
        work = work_of(plan_of_prompt(name, one), tuple(ends), LAYERS, BLOCK, 0, tokens)
        assert (work.rows, work.plain_rows) == (counters.HERE.computed, counters.HERE.total)
        size = group_size(segments(LAYERS, ends))
        assert (work.blocks, work.plain_blocks) == (size * sum(blocks), LAYERS * -(-tokens // BLOCK))
    assert served.free == served.free_at_start


def test_more_requests_fit(asked, engine):
    """At equal bytes: blocks of all layers for six plain prompts of this length."""
    requests = [one.request() for one in asked[:16]]
    running = {}
    for avflow in (None, {"video": 2, "audio": 2}):
        served = engine(avflow=avflow, max_num_seqs=16, max_num_batched_tokens=2048, num_gpu_blocks_override=None)
        layers = [len(group.layer_names) for group in served.manager.kv_cache_config.kv_cache_groups]
        blocks = 6 * 6 * LAYERS // max(layers)
        served = engine(avflow=avflow, max_num_seqs=16, max_num_batched_tokens=2048, num_gpu_blocks_override=blocks + 1)
        served.generate(requests, [None] * len(requests))
        running[avflow is None] = served.seen["running"]
        assert served.free == served.free_at_start
    assert running[True] == 6 and running[False] >= 9, running


def test_mixed_batch_with_opt_out(asked, engine):
    """Half of a batch loses nothing; with a prefix cache, too, whose blocks the two must not share."""
    served = engine(avflow={"video": 2, "audio": 2}, enable_prefix_caching=True)
    requests = [one.request() for one in asked[:12]]
    count = len(requests)
    for _ in range(2):
        got = served.generate(requests, [{OFF: 1} if i % 2 else None for i in range(count)])
        assert got == [one.answers["" if i % 2 else "early"] for i, one in enumerate(asked[:12])]
        got = served.generate(requests, [None if i % 2 else {OFF: 1} for i in range(count)])
        assert got == [one.answers["early" if i % 2 else ""] for i, one in enumerate(asked[:12])]
    assert served.free == served.free_at_start


@pytest.mark.parametrize("name", SCHEDULES)
def test_abort_in_flight(name, asked, engine, tmp_path):
    """Requests that are taken back at any time leave the others' answers and no block behind."""
    schedule = {"schedule": schedule_file(name, tmp_path)}
    served = engine(avflow=schedule, max_num_batched_tokens=256, max_num_seqs=4)
    llm = served.llm.llm_engine
    for number, one in enumerate(asked):
        extra = extra_args(one.prompt) if name in NEEDS_RUNS else None
        llm.add_request(str(number), one.request(), served.params(extra))
    left, done, steps, ending = set(range(len(asked))), {}, 0, 0
    while llm.has_unfinished_requests():
        for out in llm.step():
            if out.finished:
                done[int(out.request_id)] = list(out.outputs[0].token_ids)
        steps += 1
        taken = None
        if steps in (1, 3, 6, 11):  # some run, some wait
            taken = steps
        elif steps % 13 == 0 and left - done.keys():  # the oldest, which runs
            taken, ending = min(left - done.keys()), ending + 1
        if taken in left and taken not in done:
            llm.abort_request([str(taken)])
            left.discard(taken)
    assert ending >= len(asked) // 12 and done.keys() == left
    assert all(done[number] == asked[number].answers[name] for number in left)
    assert served.free == served.free_at_start
