"""The study's findings, on the trained models of the package: what needs which path, and what can go.

Whatever is chosen from measurements is chosen on one set of held-out samples and tested on another. Bounds stand half
way or more from what was measured to what would contradict the finding; another BLAS or thread count moves a mean by
less than 1 point of 100.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

import avflow
from avflow.experiments.pathways import count_edges
from avflow.results.change import mean_change
from avflow.synthetic import LINEUP_TASKS, TASKS, make_items, write_items
from avflow.weights import NAMES

pytestmark = pytest.mark.slow
NEEDS = {name: task.needs for name, task in TASKS.items()}
WINDOW = 3


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return avflow.load(request.param)


@pytest.fixture(scope="module")
def omni():
    return avflow.load("tiny-omni")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(tasks, samples of each, seed) -> samples, their files written once"""

    @cache
    def write(tasks, each: int, seed: int) -> list[avflow.Sample]:
        items = make_items("heldout", each * len(tasks), seed, list(tasks))
        return avflow.Sample.read_jsonl(write_items(items, tmp_path_factory.mktemp("samples")))

    return write


@pytest.fixture(scope="module")
def clips(model, files):
    """To choose with."""
    return [model.prepare(sample) for sample in files(tuple(TASKS), 8, 301)]


@pytest.fixture(scope="module")
def fresh_clips(model, files):
    """To test on."""
    return [model.prepare(sample) for sample in files(tuple(TASKS), 8, 302)]


@pytest.fixture(scope="module")
def items(omni, files):
    return [omni.prepare(sample) for sample in files(tuple(LINEUP_TASKS), 16, 303)]


def lowest(model, prompts, knockouts, **options) -> dict[str, float]:
    """{path: mean change in percent at the layer where it is lowest}"""
    rows = mean_change(avflow.sweep(model, prompts, knockouts, WINDOW, **options).table, resamples=1).to_pylist()
    return {k: min(r["mean"] for r in rows if r["knockout"] == k) for k in dict.fromkeys(r["knockout"] for r in rows)}


@pytest.fixture(scope="module")
def flow(model, clips):
    """{needs: {path: lowest mean change}}"""
    paths = ["video->question", "audio->question"]
    return {needs: lowest(model, [p for p in clips if NEEDS[p.task] == needs], paths) for needs in set(NEEDS.values())}


def test_a_medium_reaches_the_question_where_the_task_is_about_it_and_nowhere_else(flow):
    assert flow["visual"]["video->question"] < -20 and flow["visual"]["audio->question"] > -10, flow
    assert flow["audio"]["audio->question"] < -20 and flow["audio"]["video->question"] > -10, flow
    assert flow["both"]["video->question"] < -10 and flow["both"]["audio->question"] < -8, flow


def test_what_reaches_the_last_token_comes_through_the_question(model, clips):
    """Cut in all layers: in a window of three the other layers make up for it on most questions."""
    for needs in sorted(set(NEEDS.values())):
        prompts = [p for p in clips if NEEDS[p.task] == needs]
        paths = lowest(model, prompts, ["video+audio->last", "question->last"], style="top_down", layers=[0])
        # tiny-salmonn's last token reads the video itself, a little, on questions about both media.
        most = -25 if needs == "both" and not model.family.takes_candidates else -5
        assert paths["video+audio->last"] > most and paths["question->last"] < most - 20, (needs, paths)


def test_as_many_random_edges_do_not_hurt_as_the_path_does(model, clips):
    visual, edge = [p for p in clips if NEEDS[p.task] == "visual"], avflow.Knockout.parse("video->question")
    layer = 1  # where benchmarks/findings/measure.py finds it strongest, on other clips
    changes: dict[str, list[float]] = {edge.name: [], "random": []}
    for prompt in visual:
        gone = count_edges(edge.cuts(model.groups), model.groups.ids(prompt.groups), np.array(prompt.items))
        share = gone / (len(prompt) * (len(prompt) - 1) / 2)
        control = avflow.Knockout("all", "all", random_share=share, name="random")
        for row in avflow.sweep(model, prompt, [edge, control], WINDOW, layers=[layer]).table.to_pylist():
            changes[row["knockout"]].append(row["change_percent"])
    path, random = (np.mean(changes[name]) for name in (edge.name, "random"))
    assert path < -20 and random > -5, changes


@torch.no_grad()
def right_with(model, schedule, prompts) -> float:
    right = []
    for prompt in prompts:
        with avflow.evict(model, schedule, groups=prompt.groups, items=prompt.items):
            logits = model.hf(**prompt.model_inputs).logits[0, -1]
        right.append(int(logits.argmax()) == prompt.answer_ids[0])
    return float(np.mean(right))


def test_media_leave_at_the_planned_layer_and_fresh_clips_are_answered_as_before(model, clips, fresh_clips):
    plan = avflow.plan_eviction(model, clips, ["video", "audio"], holdout=0, margin=None)
    steps = {step.group: step.after for step in plan.steps}
    assert set(steps) == {"video", "audio"} and max(steps.values()) <= 8, steps
    before = right_with(model, avflow.EvictionSchedule({}), fresh_clips)
    assert before >= 0.95
    assert right_with(model, plan, fresh_clips) >= before - 0.06  # four of 72; of its own clips the plan allows none
    early = avflow.EvictionSchedule({"video": 0, "audio": 0})
    assert right_with(model, early, fresh_clips) < before - 0.08


def kept(model, prompts, keep) -> dict[str, tuple[float, float]]:
    """{run: (share of edges, accuracy)}"""
    table, out = avflow.pathways(model, prompts, keep, random=3).table, {}
    for run in dict.fromkeys(table["run"].to_pylist()):
        rows = table.filter(pc.equal(table["run"], run))
        out[run] = tuple(float(np.mean(rows[name].to_pylist())) for name in ("edges_kept", "correct"))
    return out


def test_the_pathways_of_tiny_omni_alone_answer_fresh_clips_and_random_edges_do_not(omni, files):
    fresh_clips = [omni.prepare(sample) for sample in files(tuple(TASKS), 8, 302)]
    early = range(0, 3)  # found by benchmarks/findings/measure.py, on other clips
    found = kept(
        omni,
        fresh_clips,
        {
            "cross:video": range(0, 1), "cross:audio": early, "audio->video": early, "video->audio": early,
            "media->options": range(0, 5), "question_text->options": range(0, 6), "options->last": None,
        },
    )  # fmt: skip
    assert found["pathways"][0] < 0.6, found
    assert found["pathways"][1] >= found["full"][1] - 0.06, found
    random = [right for run, (_, right) in found.items() if run.startswith("random")]
    assert len(random) == 3 and np.mean(random) <= found["pathways"][1] - 0.1, found


def test_interleaved_items_are_answered_from_the_candidates_through_text_not_straight(omni, items):
    """Little passes from candidates or reference to the last token itself; more does through what stands between."""
    straight = lowest(omni, items, ["candidates->last", "reference->last"])
    through = lowest(omni, items, ["candidates->question_text+options+reference", "question->last"])
    assert min(straight.values()) > -12 and max(through.values()) < -15, (straight, through)


def test_the_right_candidate_is_needed_and_a_wrong_one_is_not(omni, items):
    """All edges out of it, in every layer; of the three wrong ones together for comparison."""
    own, others = (f"{c}->question+reference+template+last" for c in ("candidate_correct", "candidate_incorrect"))
    table = avflow.sweep(omni, items, [own, others], window=1, style="top_down", layers=[0], select="all").table
    right = {cut: np.mean(_column(table, cut, "correct_knockout")) for cut in (own, others)}
    assert np.mean(_column(table, own, "correct")) >= 0.95
    assert right[own] < right[others] - 0.2, right


def _column(table, knockout: str, name: str) -> list:
    return table.filter(pc.equal(table["knockout"], knockout))[name].to_pylist()
