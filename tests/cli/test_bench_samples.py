"""`avflow bench --samples`: a schedule beside the plain model on a set of one's own prompts."""

from __future__ import annotations

import functools
import json

import pytest
from command import avflow_, one_line_error

import avflow
from avflow.cli.bench_samples import bench_samples, lines
from avflow.runtime.serving import Served, Turn, summary
from avflow.synthetic import make_items, write_items

SCHEDULE = avflow.EvictionSchedule({"video": 3, "audio": 5})


@functools.cache
def omni() -> avflow.Model:
    return avflow.load("tiny-omni")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_items(make_items("heldout", 5, seed=11), tmp_path_factory.mktemp("clips"))


def test_figures_are_those_of_generate(file):
    """Cache bytes and tokens against generate within avflow.evict, batches of 2, 2 and 1."""
    samples = avflow.Sample.read_jsonl(file)
    found = bench_samples(omni(), samples, SCHEDULE, max_new_tokens=3, batch=2)
    assert (found["prompts"], found["calls"], found["failed"]) == (5, 3, {})
    same_first, same, kv = [], [], {"plain": [], "evicted": []}
    for at in (0, 2, 4):
        batch = omni().prepare_batch(samples[at : at + 2])
        n = batch.model_inputs["input_ids"].shape[1]
        how = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        plain = omni().hf.generate(**batch.model_inputs, **how)
        with avflow.evict(omni(), SCHEDULE, groups=batch):
            evicted = omni().hf.generate(**batch.model_inputs, **how)
        for name, out in (("plain", plain), ("evicted", evicted)):
            layers = out.past_key_values.layers
            kv[name].append(sum(t.numel() * t.element_size() for x in layers for t in (x.keys, x.values)))
        a, b = plain.sequences[:, n:], evicted.sequences[:, n:]
        same_first += (a[:, 0] == b[:, 0]).tolist()
        same += (a == b).all(1).tolist()
    assert found["first_token_same"] == sum(same_first) / 5 and found["all_tokens_same"] == sum(same) / 5
    for name in kv:
        assert found[name]["kv_bytes"] == {"mean": sum(kv[name]) / 3, "max": max(kv[name])}
        assert found[name]["device_bytes"] is None
        for key in ("prefill_seconds", "first_seconds", "step_seconds"):
            assert 0 < found[name][key]["median"] <= found[name][key]["p95"] < 60
        assert found[name]["prefill_seconds"]["median"] < found[name]["first_seconds"]["median"]
    assert found["evicted"]["kv_bytes"]["max"] < found["plain"]["kv_bytes"]["max"] < found["process_bytes"]
    assert len(lines(found)) == 11


def test_they_take_turns_in_going_first(file, monkeypatch):
    """plain, evicted, evicted, plain ...: after one of each to warm up."""
    import avflow.runtime.serving as serving

    real, seen = serving.serve, []

    def watched(model, batch, count):
        from avflow.models.compat import open_block

        seen.append("e" if open_block(model.text_model) else "p")
        return real(model, batch, count)

    monkeypatch.setattr(serving, "serve", watched)
    monkeypatch.setattr(serving, "compared", lambda model: 0)
    bench_samples(omni(), avflow.Sample.read_jsonl(file)[:4], SCHEDULE, max_new_tokens=1)
    assert "".join(seen) == "pe" + "peeppeep"


def test_medians_and_tails():
    def one(seconds: float, tokens) -> Served:
        return Served(seconds, seconds + 1, seconds / 10, int(100 * seconds), int(seconds), tokens)

    turns = [Turn([str(i)], one(i, [[1, 2]]), one(i / 2, [[1, 2 + i % 2]])) for i in range(1, 22)]
    found = summary(turns)
    assert found["plain"]["prefill_seconds"] == {"median": 11, "p95": 20}
    assert found["plain"]["first_seconds"] == {"median": 12, "p95": 21}
    assert found["evicted"]["step_seconds"]["median"] == pytest.approx(0.55)
    assert found["plain"]["device_bytes"] == 21 and found["plain"]["kv_bytes"] == {"mean": 1100, "max": 2100}
    assert found["first_token_same"] == 1 and found["all_tokens_same"] == 10 / 21


def test_the_command(file, tmp_path):
    SCHEDULE.save(tmp_path / "s.json")
    out = tmp_path / "bench.json"
    asked = ("bench", "tiny-omni", "--samples", file, "--evict", tmp_path / "s.json", "--max-new-tokens", 2)
    result = avflow_(*asked, "--limit", 2, "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["prompts"] == 2 and found["max_new_tokens"] == 2 and "first token (ms), p95" in result.stdout
    broken = tmp_path / "broken.jsonl"
    record = json.loads(file.read_text().splitlines()[0])
    whole = {**record, "video": str(file.parent / record["video"])}
    broken.write_text(json.dumps(whole) + "\n" + json.dumps({**whole, "id": "gone", "video": "gone.mp4"}) + "\n")
    result = avflow_("bench", "tiny-omni", "--samples", broken, *asked[4:])
    assert result.exit_code == 1 and "1 of 2 samples failed" in result.stderr and "1 prompts" in result.stdout


@pytest.mark.parametrize(
    "options, says",
    [
        (["--evict", "omni_3b_av_video"], "--evict is about prompts of your own: name their file with --samples"),
        (["--max-new-tokens", 3], "--max-new-tokens is about prompts of your own"),
        (["--samples", "x.jsonl"], "--samples without a schedule"),
        (["--samples", "x.jsonl", "--evict", "y.json", "--tokens", 300], "--tokens is about a random prompt"),
        (["--samples", "x.jsonl", "--evict", "nothing.json"], "presets: omni_3b_av_video"),
        (["--samples", "x.jsonl", "--evict", "omni_3b_av_video"], "x.jsonl"),
        (["--samples", "x.jsonl", "--evict", "omni_3b_av_video", "--batch", 0], "batch = 0"),
        (["--samples", "x.jsonl", "--evict", "omni_3b_av_video", "--max-new-tokens", 0], "max_new_tokens = 0"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(options, says):
    assert says in one_line_error(avflow_("bench", "no such model", *options))


def test_a_schedule_that_needs_the_answer(file):
    with pytest.raises(avflow.InputError, match="which option is right nobody knows"):
        bench_samples(omni(), avflow.Sample.read_jsonl(file), avflow.EvictionSchedule({"option_correct": 3}))


def test_ctrl_c_promises_nothing(file, tmp_path, monkeypatch):
    """A bench keeps no samples, so that the same command begins anew."""
    import avflow.cli.bench_samples as bench

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "read_some", interrupted)
    SCHEDULE.save(tmp_path / "s.json")
    result = avflow_("bench", "tiny-omni", "--samples", str(file), "--evict", str(tmp_path / "s.json"))
    assert result.exit_code == 130 and result.stderr.strip() == "stopped"
