"""vLLM with the plug-in answers what avflow's own eviction answers, token by token."""

import pytest
from served import BLOCK, ENGINE, LAYERS, NEEDS_RUNS, SCHEDULES, rows_per_layer, schedule_file
from vllm.v1.worker.gpu.cudagraph_utils import has_compiled_submodule

from avflow.eviction.vllm_groups import group_size, segments
from avflow_vllm import counters
from avflow_vllm.client import extra_args

# Chunks one request at a time: vLLM 0.32 alone answers otherwise where a batch cuts a clip with sound into chunks.
# tests/serving/test_random.py has batches of chunks, of text.
SETTINGS = {
    "single": {"max_num_seqs": 1},
    "batch": {},
    "chunks": {"max_num_batched_tokens": 32, "max_num_seqs": 1},
    "prefix cache": {"enable_prefix_caching": True},
    "few blocks": {"max_model_len": 192},
}


def extras(name, asked):
    return [extra_args(one.prompt) if name in NEEDS_RUNS else None for one in asked]


def blocks_of(name, one):
    """How many blocks of all groups a prompt takes."""
    ends = sorted({step.after for step in SCHEDULES[name]})
    parts, rows = segments(LAYERS, ends), rows_per_layer(name, one.prompt)
    size = group_size(parts)
    first = [0, *(end + 1 for end in ends)]
    return sum(-(-part // size) * -(-rows[at] // BLOCK) for part, at in zip(parts, first, strict=True))


def few_blocks(name, asked):
    """Room for three prompts, and for none of the blocks that their answers take."""
    return {"num_gpu_blocks_override": 1 + 3 * min(blocks_of(name, one) for one in asked)}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_equal(name, setting, asked, engine, tmp_path):
    options = dict(SETTINGS[setting])
    if setting == "few blocks":
        options |= few_blocks(name, asked)
    served = engine(avflow={"schedule": schedule_file(name, tmp_path)}, **options)
    if not ENGINE.get("enforce_eager", True):
        assert has_compiled_submodule(served.runner.model)
    requests, more = [one.request() for one in asked], extras(name, asked)
    got = served.generate(requests, more)
    assert got == [one.answers[name] for one in asked]
    if setting == "prefix cache":
        cold = dict(served.seen)
        assert served.generate(requests, more) == got
        assert served.seen["hits"] - cold["hits"] > 20 * len(asked)
    if setting == "few blocks" and name not in NEEDS_RUNS:  # there a prompt and its answer fill as many blocks
        assert served.seen["preempted"] > 0
    assert served.free == served.free_at_start


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_token_at_a_time(name, asked, engine, tmp_path):
    """All rows stay, those that left without a slot: what a full CUDA graph of a GPU's decode steps has to do."""
    served = engine(
        avflow={"schedule": schedule_file(name, tmp_path)},
        max_num_batched_tokens=1,
        max_num_seqs=1,
        max_model_len=256,
        limit_mm_per_prompt=None,
    )
    for one, extra in zip(asked[:2], extras(name, asked), strict=False):
        counters.HERE.computed = counters.HERE.total = 0
        assert served.generate([one.request()], [extra]) == [one.answers[name]]
        assert counters.HERE.computed == counters.HERE.total > 0
    assert served.free == served.free_at_start
