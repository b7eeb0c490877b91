"""The figures of `avflow bench`: those that do not depend on the clock, and that all are there."""

import pytest
from command import avflow_, one_line_error

from avflow.cli.bench import bench, bench_prompt, lines


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--tokens", "9" * 400, "tokens: pass 1,000,000 or fewer"),  # a prompt of so many took all memory there was
        ("--tokens", 1_000_001, "1000001 tokens: pass 1,000,000 or fewer"),
        ("--rounds", "9" * 30, "rounds = 9"),
        ("--rounds", 0, "rounds = 0: pass 1 or more"),
    ],
)
def test_sizes_that_nobody_waits_for_are_refused_before_a_model_is_loaded(option, value, says):
    assert says in one_line_error(avflow_("bench", "no such model", option, value))


def test_the_prompt_is_labelled_throughout(qwen3):
    prompt = bench_prompt(qwen3, 333)
    assert len(prompt) == 333 and prompt.groups[-1] == "last"
    counts = {name: prompt.groups.count(name) for name in ("system", "video", "audio", "question_text", "last")}
    assert counts == {"system": 12, "video": 75 * 2 + 70, "audio": 25 * 2, "question_text": 50, "last": 1}
    assert len({i for i in prompt.items if i >= 0}) == 3


@pytest.mark.parametrize("name", ["qwen3", "omni"])
def test_figures(request, name):
    model = request.getfixturevalue(name)
    found = bench(model, tokens=240, rounds=1)
    assert found["kernel"].startswith("cpu-") and found["dtype"] == "float32"
    sweep, eviction = found["sweep"], found["eviction"]
    assert sweep["runs"] == 5 * model.n_layers and sweep["packed_rows"] > 1
    assert sweep["over_clean"] * sweep["forward_each_over_sweep"] == pytest.approx(sweep["runs"])
    # Half of the layers hold all 240 tokens, the others the 63 that are no media.
    assert eviction["after"] == model.n_layers // 2 - 1 and eviction["kv_bytes"] == pytest.approx((240 + 63) / 480)
    assert 0 < eviction["flops"] < 1
    seconds = [s for part in ("attention", "sweep", "eviction") for s in found[part]["seconds"].values()]
    assert len(seconds) == 6 and all(0 < s < 60 for s in seconds)
    assert len(lines(found)) == 5
