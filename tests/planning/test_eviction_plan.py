"""plan_eviction: what it measures, chooses, tests and reports, on tiny models; and what an eviction costs."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tiny
import tiny_salmonn
import torch

import avflow
from avflow.errors import InputError
from avflow.eviction.policies import Changed, EveryNth, TopK
from avflow.eviction.schedule import EvictionSchedule, Step
from avflow.planning.choice import change
from avflow.planning.plan_eviction import PlanRequest, choose
from avflow.planning.savings import eviction_cost, kept_counts
from avflow.planning.trials import EvictionRequest, try_schedules
from avflow.runtime.answering import own_run

GROUPS = ["video", "audio", "question_text"]
ON_ALL = dict(holdout=0, margin=None)  # chosen and judged on all prompts, by their accuracy alone


@functools.cache
def model():
    return avflow.wrap(tiny.thinker(layers=6))


@functools.cache
def prompts() -> list[avflow.Prompt]:
    """Eight prompts in three layouts; the answer of each is what the model says."""
    out = []
    for seed in range(8):
        make = functools.partial(
            tiny.av_prompt, ["interleaved", "separate", "question_first"][seed % 3], seconds=2, seed=seed, id=str(seed)
        )
        with torch.no_grad():
            top = int(model().hf(**make().model_inputs).logits[0, -1].argmax())
        out.append(make(answer_ids=(top,)))
    return out


@functools.cache
def planned(drop: float, **more) -> avflow.EvictionSchedule:
    return avflow.plan_eviction(model(), prompts(), GROUPS, max_accuracy_drop=drop, **ON_ALL, **more)


def layers_of(schedule) -> dict[str, int]:
    return {step.group: step.after for step in schedule.steps}


def test_the_table_is_what_single_runs_say():
    """Every group and layer, and the groups together, against avflow.evict in the model itself."""
    table = planned(0.0).plan.table.to_pylist()
    assert [(r["group"], r["layer"]) for r in table] == [(g, x) for g in [*GROUPS, "+".join(GROUPS)] for x in range(5)]
    clean = [own_run(model(), p) for p in prompts()]
    assert all(run.correct for run in clean)
    for row in table:
        runs = []
        for prompt in prompts():
            with avflow.evict(model(), {row["group"]: row["layer"]}, groups=prompt.groups):
                runs.append(own_run(model(), prompt))
        assert row["accuracy"] == np.mean([r.correct for r in runs])
        assert row["change"] == row["accuracy"] - 1
        assert row["p"] == pytest.approx(np.mean([np.exp(r.logp) for r in runs]), rel=1e-3)
        changes = [r.logp - c.logp for r, c in zip(runs, clean, strict=True)]
        assert row["mean_logp_change"] == pytest.approx(np.mean(changes), abs=1e-4)
        assert row["change_low"] <= row["change"] <= row["change_high"]


@pytest.mark.parametrize("drop", [0.0, 0.13, 0.25])
def test_each_group_takes_the_earliest_safe_layer(drop):
    table = planned(drop).plan.table.to_pylist()
    for group in GROUPS:
        fine = [r["change"] >= -drop for r in table if r["group"] == group]
        safe = [x for x in range(5) if all(fine[x:])]
        assert planned(drop).plan.alone.get(group) == (safe[0] if safe else None)


def test_before_layer_0_where_it_is_asked_for():
    """Measured in the walk as in the model itself; taken where nothing is lost by it."""
    schedule = avflow.plan_eviction(model(), prompts()[:4], "video", max_accuracy_drop=0.9, layers=[-1, 2], **ON_ALL)
    table = schedule.plan.table.to_pylist()
    assert [r["layer"] for r in table] == [-1, 2] and layers_of(schedule) == {"video": -1}
    with avflow.evict(model(), schedule, groups=prompts()[0].groups):
        alone = own_run(model(), prompts()[0])
    found = try_schedules(model(), prompts()[:1], EvictionRequest([schedule]))[0]
    assert alone.logp == pytest.approx(found.logp[0], abs=1e-4)
    assert schedule.figures["kv_saved"] == pytest.approx(schedule.figures["flops_saved"], abs=0.1)
    assert planned(0.0).plan.table["layer"].to_pylist()[0] == 0  # not unasked


def test_groups_that_harm_only_together_are_moved_later():
    schedule = planned(0.0)
    tried = schedule.plan.tried
    assert tried[0] == {"schedule": schedule.plan.alone, "change": -0.125, "by": "walk", "holds": False}
    assert layers_of(schedule) != schedule.plan.alone and layers_of(schedule) == tried[-1]["schedule"]
    assert (tried[-1]["by"], tried[-1]["holds"]) == ("evict", True)
    for step in tried:  # the walk's word for each, once more and alone
        found = try_schedules(model(), prompts(), EvictionRequest([EvictionSchedule(step["schedule"])]))
        clean, correct = np.array([a.correct_clean for a in found]), np.stack([a.correct for a in found])
        assert step["change"] == change(clean, correct).mean()
        assert step["holds"] == (step["change"] >= 0)


def test_figures_are_those_of_the_schedule_in_the_model():
    schedule = planned(0.25)
    figures = schedule.figures
    clean = [own_run(model(), p) for p in prompts()]
    kept = []
    for prompt in prompts():
        with avflow.evict(model(), schedule, groups=prompt.groups):
            kept.append(own_run(model(), prompt))
    assert figures["accuracy_clean"] == 1 and figures["accuracy_kept"] == np.mean([r.correct for r in kept])
    assert figures["accuracy_change"] == figures["accuracy_kept"] - 1 >= -0.25
    low, high = figures["accuracy_change_interval"]
    assert low <= figures["accuracy_change"] <= high
    assert figures["kv_bytes_clean"] == np.mean([r.kv_bytes for r in clean])
    assert figures["kv_bytes_kept"] == np.mean([r.kv_bytes for r in kept])
    costs = [eviction_cost(model(), schedule, p) for p in prompts()]
    assert figures["kv_saved"] == pytest.approx(
        1 - sum(c["kv_bytes"] for c in costs) / sum(c["clean_kv_bytes"] for c in costs)
    )
    assert 0.2 < figures["flops_saved"] < 1 and figures["kv_saved"] > 0.2
    assert figures["prefill_time_ratio"] > 0 and figures["decoder_time_ratio"] > 0


def test_the_file_says_where_it_comes_from(tmp_path):
    schedule = planned(0.25)
    schedule.save(tmp_path / "s.json")
    loaded = avflow.EvictionSchedule.load(tmp_path / "s.json")
    assert loaded.steps == schedule.steps and loaded.figures == schedule.figures
    assert loaded.model == {"model_type": "qwen2_5_omni_thinker", "layers": 6, "hidden": 64}
    assert loaded.data["prompts"] == 8 and loaded.data["tasks"] == ["tiny"] and len(loaded.data["ids_sha256"]) == 64
    assert loaded.figures["max_accuracy_drop"] == 0.25 and loaded.figures["strict"] is False
    other = avflow.plan_eviction(model(), prompts()[:3], "video", max_accuracy_drop=0.5)
    assert other.data["ids_sha256"] != schedule.data["ids_sha256"]


def test_strict_takes_no_earlier_layer():
    """Of 8 prompts none lost bounds the drop by 31 % (1 - 0.05 ** (1 / 8)), one lost by 47 %."""
    loose, strict = planned(0.4).plan, planned(0.4, strict=True).plan
    assert all(layer >= loose.alone[group] for group, layer in strict.alone.items())
    assert strict.alone and set(strict.alone) <= set(loose.alone) and strict.alone != loose.alone
    by_row = {(r["group"], r["layer"]): r["change"] for r in strict.table.to_pylist()}
    assert all(by_row[group, layer] == 0 for group, layer in strict.alone.items())
    assert planned(0.3, strict=True).steps == ()


def test_groups_that_rest(tmp_path):
    """Measured, chosen and judged as what leaves is; the table is what single runs say."""
    plan = avflow.plan_eviction(model(), prompts()[:4], GROUPS[:2], max_accuracy_drop=0.5, until=3, **ON_ALL)
    table = plan.plan.table.to_pylist()
    assert [(r["group"], r["layer"]) for r in table] == [
        (group, layer) for group in ["video", "audio", "video+audio"] for layer in range(3)
    ]
    for row in table:
        step = Step(row["group"], row["layer"], until=3)
        runs = []
        for prompt in prompts()[:4]:
            with avflow.evict(model(), [step], groups=prompt.groups):
                runs.append(own_run(model(), prompt))
        assert row["accuracy"] == np.mean([r.correct for r in runs])
        assert row["p"] == pytest.approx(np.mean([np.exp(r.logp) for r in runs]), rel=1e-3)
    assert plan.steps and all(step.until == 3 for step in plan.steps) and plan.figures["until"] == 3
    costs = [eviction_cost(model(), plan, p) for p in prompts()[:4]]
    saved = 1 - sum(c["kv_bytes"] for c in costs) / sum(c["clean_kv_bytes"] for c in costs)
    assert plan.figures["kv_saved"] == pytest.approx(saved) and saved > 0
    plan.save(tmp_path / "s.json")
    assert avflow.EvictionSchedule.load(tmp_path / "s.json").steps == plan.steps
    assert "until" not in planned(0.25).figures


@pytest.mark.parametrize(
    "how, message",
    [
        (dict(until=0), "until = 0: pass the last layer without the groups"),
        (dict(until=5), "rests until layer 5: .* is 4"),
        (dict(until=3, layers=[1, 3]), "layers hold 3, and until = 3: a rest begins below its last layer"),
        (dict(until=3, groups=["video", "media"]), "'video' rests from layer 1 to 3"),
    ],
)
def test_rests_that_cannot_be_planned(how, message):
    with pytest.raises(InputError, match=message):
        avflow.plan_eviction(model(), prompts()[:1], **{"groups": ["video"], **how})


def test_some_layers_one_group_no_joint_rows():
    schedule = avflow.plan_eviction(model(), prompts()[:2], "video", max_accuracy_drop=0.9, layers=[1, 3], **ON_ALL)
    assert schedule.plan.table["layer"].to_pylist() == [1, 3] and layers_of(schedule) == {"video": 1}
    both = PlanRequest(["video", "audio"], joint=False)
    assert len(both.grid(model())) == 10


def test_several_answer_tokens_and_options():
    prompts = [
        tiny.av_prompt("interleaved", seconds=2, seed=s, id=str(s), answer_ids=answer, option_ids=(7, 8, 9))
        for s, answer in enumerate([(7, 3), (8,), (9, 1, 2), (7,)])
    ]
    assert any(own_run(model(), p).correct for p in prompts)
    schedule = avflow.plan_eviction(model(), prompts, ["media", "question"], max_accuracy_drop=0.5, **ON_ALL)
    assert schedule.steps and schedule.plan.tried[-1]["by"] == "evict"
    (walk,) = [t for t in schedule.plan.tried if t["by"] == "walk" and t["schedule"] == layers_of(schedule)]
    assert walk["change"] == schedule.figures["accuracy_change"]


def test_nothing_can_leave():
    """Every eviction turns a right answer wrong: the schedule has no step, and says what was measured."""
    request = PlanRequest(["video"])
    answered = try_schedules(model(), prompts()[:1], request.walks(model()))
    answered[0].correct[:] = False
    schedule = choose(model(), request, answered, lambda: iter(prompts()[:1]))
    assert schedule.steps == () and schedule.plan.alone == {} and schedule.plan.tried == []
    assert schedule.figures["accuracy_clean"] == 1 and "accuracy_kept" not in schedule.figures
    with avflow.evict(model(), schedule, groups=prompts()[0].groups):  # and it may be run: nothing leaves
        assert own_run(model(), prompts()[0]).logp == pytest.approx(answered[0].logp_clean, abs=1e-4)


def test_what_fails_in_the_model_is_not_taken(monkeypatch):
    """The walk says it holds, the model's own run does not (as low precision may): the next rung is tried."""
    from avflow.planning import plan_eviction as eviction_plan

    real, calls = eviction_plan.run_both, []

    def worse(*args):
        pairs, schedule = real(*args), args[1]
        calls.append(layers_of(schedule))
        if len(calls) == 1:
            for pair in pairs:
                pair.kept.correct = False
        return pairs

    monkeypatch.setattr(eviction_plan, "run_both", worse)
    schedule = avflow.plan_eviction(model(), prompts(), GROUPS, max_accuracy_drop=0.25, **ON_ALL)
    assert calls[0] == planned(0.25).plan.alone and layers_of(schedule) == calls[1] != calls[0]
    assert [t["holds"] for t in schedule.plan.tried if t["by"] == "evict"] == [False, True]


def test_a_long_ladder_takes_several_walks(monkeypatch):
    from avflow.planning import plan_eviction as eviction_plan

    monkeypatch.setattr(eviction_plan, "RUNGS", 1)
    schedule = avflow.plan_eviction(model(), prompts(), GROUPS, **ON_ALL)
    assert layers_of(schedule) == layers_of(planned(0.0)) and schedule.plan.tried == planned(0.0).plan.tried


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(prompts=[]), "no prompts"),
        (dict(groups=[]), "groups is empty"),
        (dict(groups=["video", "video"]), "given twice"),
        (dict(groups=["smell"]), "smell"),
        (dict(groups=["last"]), "'last', which must stay"),
        (dict(groups=["text"]), "which must stay"),
        (dict(groups=["video", "image"]), "prompt '0' has no token of group 'image'"),
        (dict(layers=[5]), "layer 5"),
        (dict(layers=[9]), "out of range"),
        (dict(max_accuracy_drop=2), "max_accuracy_drop = 2"),
        (dict(memory="lots"), "lots"),
        (dict(holdout=1), "holdout = 1"),
        (dict(holdout="half"), "holdout = 'half'"),
        (dict(margin=-0.1), "margin = -0.1"),
    ],
)
def test_bad_input(change, told):
    with pytest.raises(InputError, match=told):
        avflow.plan_eviction(**(dict(model=model(), prompts=prompts()[:2], groups=GROUPS) | change))


def test_prompts_that_tell_nothing():
    wrong = tiny.av_prompt("interleaved", seconds=2, answer_ids=(prompts()[0].answer_ids[0] + 1,))
    with pytest.raises(InputError, match=r"none of the 1 prompts correctly \(accuracy 0\)"):
        avflow.plan_eviction(model(), wrong)
    with pytest.raises(InputError, match="two prompts have the id '0'"):
        avflow.plan_eviction(model(), [prompts()[0], prompts()[0]])


@pytest.mark.parametrize(
    "steps",
    [
        {"video": 0},
        {"video": 1, "question": 3},
        {"media": 2},
        {"media": -1},
        [Step("video", -1, Changed(0.5)), Step("audio", 2)],
        [Step("audio", -1, TopK(share=0.3, scored_in="next"))],
        [Step("video", 0, EveryNth(2)), Step("audio", 2, TopK(share=0.5)), Step("audio", 3)],
        [Step("video", 0, until=2), Step("audio", 1, TopK(share=0.3), until=4), Step("video", 3, EveryNth(2))],
    ],
)
def test_cost_is_what_the_cache_holds(steps):
    prompt, schedule = prompts()[0], EvictionSchedule(steps)
    cost = eviction_cost(model(), schedule, prompt)
    with avflow.evict(model(), schedule, groups=prompt.groups, items=prompt.items):
        assert own_run(model(), prompt).kv_bytes == cost["kv_bytes"]
    assert own_run(model(), prompt).kv_bytes == cost["clean_kv_bytes"]
    counts = kept_counts(model(), schedule, model().groups.ids(prompt.groups), np.array(prompt.items))
    # q, k, v, o: 64 x (64 + 32 + 32) + 64 x 64; mlp: 3 x 64 x 128; edges: 2 x 2 x 4 heads x 16
    row = 2 * (64 * 128 + 64 * 64 + 3 * 64 * 128)
    expected = sum(n * row + 256 * sum(range(1, n + 1)) for n in counts.tolist()) + 2 * 64 * tiny.VOCAB
    assert cost["flops"] == expected
    assert cost["flops_saved"] == 1 - expected / cost["clean_flops"] > 0


def test_walk_and_model_agree_on_video_salmonn():
    salmonn = avflow.wrap(tiny_salmonn.thinker())
    prompts = [
        tiny_salmonn.av_prompt(x, seed=s, id=x, answer_ids=(7, 9)) for s, x in enumerate(("interleaved", "separate"))
    ]
    for prompt in prompts:
        found = try_schedules(salmonn, [prompt], EvictionRequest([EvictionSchedule({"media": 0, "question": 1})]))[0]
        with avflow.evict(salmonn, {"media": 0, "question": 1}, groups=[*prompt.groups, "answer"]):
            assert own_run(salmonn, prompt).logp == pytest.approx(found.logp[0], abs=1e-4)
        assert own_run(salmonn, prompt).logp == pytest.approx(found.logp_clean, abs=1e-4)


def test_a_pass_prepares_its_own_prompts_alone(monkeypatch, tmp_path):
    """Half of the prompts are held out: neither the choice nor the judgement decodes the other half."""
    made = []
    numbers = dict(margin=np.float32(0.25), confidence=np.float32(0.5))
    given = [avflow.Sample(id=p.id, question="?", answer="x", video="clip.mp4") for p in prompts()]
    by_id = {p.id: p for p in prompts()}

    def prepare(sample, **options):
        made.append(sample.id)
        return by_id[sample.id]

    monkeypatch.setattr(model(), "prepare", prepare)
    schedule = avflow.plan_eviction(model(), given, "video", max_accuracy_drop=0.9, **numbers)
    assert schedule.data["chosen_on"] == schedule.data["held_out"] == 4
    assert made[:8] == sorted(by_id)  # measured
    chosen, judged = set(made[8:12]), set(made[12:16])
    assert len(made) == 16 and not chosen & judged and chosen | judged == set(by_id)
    schedule.save(tmp_path / "s.json")  # numpy's numbers too
    assert avflow.EvictionSchedule.load(tmp_path / "s.json").figures["margin"] == 0.25
