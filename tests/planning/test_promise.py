"""What a schedule's file promises is kept on clips that the plan never saw."""

from __future__ import annotations

import pytest

import avflow
from avflow.synthetic import make_items, write_items

SETS, CLIPS = 10, 6


def samples(folder, count: int, seed: int) -> list[avflow.Sample]:
    return avflow.Sample.read_jsonl(write_items(make_items("heldout", count, seed=seed), folder))


def right(model: avflow.Model, batch: avflow.Batch) -> list[bool]:
    ids = model.hf.generate(**batch.model_inputs, max_new_tokens=1, do_sample=False)[:, -1].tolist()
    return [model.text([token]) == prompt.answer for token, prompt in zip(ids, batch.prompts, strict=True)]


@pytest.mark.slow
def test_ten_fresh_sets(tmp_path):
    """One plan, ten sets: the accuracy lost is within the bound in all but what the confidence leaves open."""
    model = avflow.load("tiny-omni")
    with pytest.warns(
        avflow.AvflowWarning, match="12 held-out prompts are too few to show a drop of at most 10 points"
    ):
        chosen = avflow.plan_eviction(
            model, samples(tmp_path / "plan", 24, seed=5), layers=range(1, 9), max_accuracy_drop=0.1
        )
    figures = chosen.figures
    assert chosen.steps and chosen.labelling == "prompt" and chosen.data["held_out"] == figures["prompts"] == 12
    assert 0.1 < figures["accuracy_drop_bound"] < 0.6
    drops = []
    for number in range(SETS):
        batch = model.prepare_batch(samples(tmp_path / str(number), CLIPS, seed=1000 + number))
        clean = right(model, batch)
        with avflow.evict(model, chosen, groups=batch):
            kept = right(model, batch)
        drops.append((sum(clean) - sum(kept)) / CLIPS)
    assert sum(drop <= figures["accuracy_drop_bound"] for drop in drops) >= figures["confidence"] * SETS
    assert sum(drops) / SETS <= figures["accuracy_drop_bound"]
