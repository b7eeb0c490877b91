"""Plans without answers (KL of the next token) and by a measure of one's own on generated text."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import tiny
import torch

import avflow
from avflow.errors import InputError
from avflow.planning.choice import Tolerance
from avflow.planning.exact import drop_bound, mean_limits, share_limits
from avflow.planning.plan_eviction import PlanRequest
from avflow.planning.texts import score_schedules
from avflow.planning.trials import EvictionRequest, try_schedules
from avflow.prompts.divergence import divergence_of

GROUPS = ["video", "audio"]
ON_ALL = dict(holdout=0, margin=None)


@functools.cache
def model():
    return avflow.wrap(tiny.thinker(layers=6))


@functools.cache
def prompts() -> list[avflow.Prompt]:
    """Six prompts in three layouts, answers unknown."""
    kinds = ["interleaved", "separate", "question_first"]
    made = [tiny.av_prompt(kinds[i % 3], seconds=2, seed=i, id=str(i), answer_ids=(1,)) for i in range(6)]
    return [dataclasses.replace(p, answer_ids=None, option_ids=None) for p in made]


@torch.no_grad()
def next_token(prompt, schedule=None) -> torch.Tensor:
    """Log-probabilities [vocab], float64, of the model's own forward, its cut rows by dense masks or by evict."""
    if schedule is None:
        return model().hf(**prompt.model_inputs).logits[0, -1].double().log_softmax(-1)
    with avflow.evict(model(), schedule, groups=prompt):
        return model().hf(**prompt.model_inputs).logits[0, -1].double().log_softmax(-1)


def kl(prompt, schedule) -> float:
    clean, other = next_token(prompt), next_token(prompt, schedule)
    return float((clean.exp() * (clean - other)).sum())


def test_divergence_is_that_of_the_definition_also_where_it_is_tiny():
    """Against torch's; near equality float32 alone would lose it (and give less than 0)."""
    g = torch.Generator().manual_seed(0)
    clean = 5 * torch.randn(3, 5000, generator=g)
    for scale in (1.0, 1e-3):
        other = clean + scale * torch.randn(3, 5000, generator=g)
        p, q = (torch.distributions.Categorical(logits=x.double()) for x in (clean, other))
        found, entropy = divergence_of(clean, other)
        torch.testing.assert_close(found, torch.distributions.kl_divergence(p, q), rtol=1e-7, atol=0)
        torch.testing.assert_close(entropy, p.entropy(), rtol=1e-9, atol=0)
    assert divergence_of(clean, clean + 7)[0].abs().max() < 1e-12  # a constant changes no distribution


def test_the_walk_measures_the_divergence_of_single_runs():
    """Every group and layer, in one walk over all prompts, against plain forwards."""
    request = EvictionRequest([avflow.EvictionSchedule({g: x}) for g in GROUPS for x in range(5)], divergence=True)
    found = try_schedules(model(), prompts(), request)
    for prompt, answered in zip(prompts(), found, strict=True):
        clean = next_token(prompt)
        entropy = float(-(clean.exp() * clean).sum())
        assert answered.logp_clean == pytest.approx(-entropy, abs=1e-4) and answered.correct_clean is True
        for schedule, logp, same in zip(request.schedules, answered.logp, answered.correct, strict=True):
            assert answered.logp_clean - logp == pytest.approx(kl(prompt, schedule), rel=1e-3, abs=1e-5)
            assert same == bool(next_token(prompt, schedule).argmax() == clean.argmax())


def test_a_plan_of_prompts_alone():
    """Its figures are those of the schedule in the model itself."""
    limit = float(np.median([kl(p, {"video": 3, "audio": 3}) for p in prompts()])) * 1.5
    chosen = avflow.plan_eviction(model(), prompts(), GROUPS, max_kl=limit, max_accuracy_drop=0.34, **ON_ALL)
    figures = chosen.figures
    far = [kl(p, chosen) for p in prompts()]
    assert chosen.steps and figures["measure"] == "kl" and figures["max_kl"] == limit
    assert figures["kl_mean"] == pytest.approx(np.mean(far), rel=1e-3)
    assert figures["kl_largest"] == pytest.approx(max(far), rel=1e-3)
    assert figures["mean_logp_change"] == pytest.approx(-np.mean(far), rel=1e-3)
    within = np.array(far) <= limit
    assert (figures["accuracy_clean"], figures["accuracy_kept"]) == (1, within.mean())
    assert figures["accuracy_drop_bound"] >= share_limits(np.array([(~within).sum()]), 6, 0.05)[1][0] - 1e-12
    assert figures["accuracy_change"] >= -0.34
    same = [bool(next_token(p).argmax() == next_token(p, chosen).argmax()) for p in prompts()]
    assert figures["same_first_token"] == np.mean(same)
    # Nearer asks for later layers, and the answers play no part.
    nearer = avflow.plan_eviction(model(), prompts(), GROUPS, max_kl=limit / 50, max_accuracy_drop=0.34, **ON_ALL)
    assert sum(s.after for s in nearer.steps) + 5 * (len(chosen.steps) - len(nearer.steps)) > sum(
        s.after for s in chosen.steps
    )
    labelled = [dataclasses.replace(p, answer_ids=[int(n)]) for n, p in enumerate(prompts())]
    again = avflow.plan_eviction(model(), labelled, GROUPS, max_kl=limit, max_accuracy_drop=0.34, **ON_ALL)
    assert again.steps == chosen.steps and again.figures["kl_mean"] == figures["kl_mean"]


def test_the_margin_is_the_limit_of_the_mean():
    """A few far prompts that max_accuracy_drop lets through still count in the mean."""
    far = np.full((10, 2), 0.01)
    far[3, 1] = 5.0
    clean, correct = np.ones(10, bool), far <= 0.1
    assert Tolerance(0.2, max_kl=0.1).holds(clean, correct, far).tolist() == [True, False]
    assert Tolerance(0.2, max_kl=0.1, margin=None).holds(clean, correct, far).tolist() == [True, True]
    assert Tolerance(0.05, max_kl=0.1, margin=None).holds(clean, correct, far).tolist() == [True, False]
    # A limit above max_accuracy_drop + margin does no harm: it is nats that are asked for.
    assert Tolerance(0.0, max_kl=0.5).holds(clean, far[:, :1] <= 0.5, 10 * far[:, :1]).tolist() == [True]


def words(prompt, text: str) -> float:
    """A made-up measure: a share of the tokens' sum of digits."""
    return (sum(map(int, text.replace(" ", ""))) % 11) / 10


def test_a_metric_sees_the_text_that_generate_gives():
    """Schedules of one step in one walk, and one of two steps, against generate within avflow.evict."""
    schedules = [avflow.EvictionSchedule({g: x}) for g in [*GROUPS, "video+audio"] for x in (0, 2, 4)]
    schedules.append(avflow.EvictionSchedule({"video": 1, "audio": 3}))
    request = PlanRequest(GROUPS, metric=words, max_new_tokens=5)
    for prompt in prompts()[:3]:
        heard: list[str] = []
        measure = dataclasses.replace(request.measure, metric=lambda p, text, heard=heard: heard.append(text) or 0.5)
        found = score_schedules(model(), prompt, EvictionRequest(schedules, divergence=True), measure)
        assert found.correct_clean == 0.5 and found.correct.tolist() == [0.5] * len(schedules)
        plain = avflow.generate(model(), prompt, max_new_tokens=5).text
        evicted = [avflow.generate(model(), prompt, one, max_new_tokens=5).text for one in schedules]
        assert heard == [plain, *evicted] and len(set(heard)) > 2


def test_a_plan_by_a_metric():
    chosen = avflow.plan_eviction(
        model(), prompts(), GROUPS, metric=words, max_new_tokens=3, max_accuracy_drop=0.2, layers=[0, 2, 4], **ON_ALL
    )
    figures = chosen.figures
    clean = [words(p, avflow.generate(model(), p, max_new_tokens=3).text) for p in prompts()]
    kept = [words(p, avflow.generate(model(), p, chosen, max_new_tokens=3).text) for p in prompts()]
    assert figures["measure"] == "metric" and figures["max_new_tokens"] == 3
    assert figures["accuracy_clean"] == pytest.approx(np.mean(clean))
    if chosen.steps:
        assert figures["accuracy_kept"] == pytest.approx(np.mean(kept))
        assert np.mean(clean) - np.mean(kept) <= 0.2 + 1e-9
        lost = np.maximum(np.array(clean) - kept, 0)[:, None]
        looks = sum(t["by"] == "evict" for t in chosen.plan.tried)
        assert figures["accuracy_drop_bound"] == pytest.approx(mean_limits(lost, 0.05 / (looks * (looks + 1)))[1][0])
    assert chosen.plan.table["p"].null_count == chosen.plan.table.num_rows  # no answer is looked at


def test_limits_of_a_mean_hold_for_what_lies_between_0_and_1():
    """Of many samples of skewed values, the true mean is beyond the limit in no more than `tail` of them."""
    g = np.random.default_rng(0)
    for a, b in ((0.3, 3.0), (5.0, 0.2), (0.05, 0.05)):
        values = g.beta(a, b, size=(25, 4000))
        low, high = mean_limits(values, 0.05)
        mean = a / (a + b)
        assert (high < mean).mean() <= 0.05 and (low > mean).mean() <= 0.05
        assert (low <= values.mean(0)).all() and (values.mean(0) <= high).all()
    zeros, ones = np.zeros((20, 1)), np.ones((20, 1))
    assert mean_limits(zeros, 0.05)[1] == pytest.approx(share_limits(np.array([0]), 20, 0.05)[1])
    assert mean_limits(zeros, 0.05)[0] == pytest.approx(0, abs=1e-12) and mean_limits(ones, 0.05)[1] == pytest.approx(1)


def test_a_score_of_0_and_1_is_bounded_no_tighter_than_by_counting():
    clean, kept = np.array([True] * 20), np.array([[True]] * 18 + [[False]] * 2)
    counted = drop_bound(clean, kept, 0.95)
    assert counted < drop_bound(clean.astype(float), kept.astype(float), 0.95) < counted + 0.1


@pytest.mark.parametrize(
    "more, says",
    [
        (dict(max_kl=0), "max_kl = 0: pass nats above 0"),
        (dict(max_kl=0.1, metric=words), "a plan measures one of them"),
        (dict(metric="bleu"), "pass a function"),
        (dict(metric=lambda prompt, text: 3), "the metric gave 3 for prompt '0'"),
        (dict(metric=lambda prompt, text: None), "the metric gave None for prompt '0'"),
        (dict(metric=lambda prompt, text: 0), "the metric gives 0 for every answer"),
        (dict(metric=words, max_new_tokens=0), "max_new_tokens = 0"),
        (dict(), "it has no answer"),
    ],
)
def test_what_is_refused(more, says):
    with pytest.raises(InputError, match=says):
        avflow.plan_eviction(model(), prompts(), GROUPS, layers=[0, 1], **{"max_new_tokens": 2, **more})


def test_who_asks_for_an_answer_refuses_a_prompt_without_one():
    for call in (avflow.sweep, avflow.answer_lens, avflow.sweep_text):
        with pytest.raises(InputError, match="prompt '0': it has no answer"):
            call(model(), prompts()[0], **({} if call is avflow.answer_lens else {"knockouts": "video->last"}))
    with pytest.raises(InputError, match="option_ids without an answer"):
        avflow.Prompt(input_ids=[1, 2], groups=["system", "last"], answer_ids=None, option_ids=[1, 2])
