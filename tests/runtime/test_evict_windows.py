"""Steps that ask their policy for each stretch of time, or each item, alone; and one budget over several groups."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import tiny
import torch
from clips import Clip
from demo_folder import clip_file
from demo_folder import model as demo_model
from evict_cases import NEVER, Case, check, cuts_of, dense, generate, model

import avflow
from avflow import EvictionSchedule, Step, TopK
from avflow.models.compat import cache_of
from avflow.models.proof import compared
from avflow.planning.savings import kept_counts
from avflow.runtime.conversation import conversation_of

AV = "video+audio"


def timed(seconds: int = 5, seed: int = 1):
    """Video and sound in chunks of two seconds: a frame's 6 tokens a second, and 25 tokens of sound."""
    made = tiny.av_prompt("interleaved", seconds=seconds, seed=seed)
    video, sound = iter(range(10**6)), iter(range(10**6))
    made.times = [
        next(video) // 6 * 1.0 if g == "video" else next(sound) / 25 if g == "audio" else None for g in made.groups
    ]
    inputs = {**made.model_inputs, "input_ids": made.input_ids[None]}
    return made, Case(inputs, [list(made.groups)], [list(made.items)])


def scores_of(made, case, after: int) -> np.ndarray:
    """float32 [N], the attention that each token of video and sound gets from the last, without `per`."""
    found = np.zeros(len(made), np.float32)

    class Watches:
        def select(self, view):
            found[view.orders] = view.scores("last")
            return np.ones(len(view.orders), bool)

    with avflow.evict(model("omni"), [Step(AV, after, Watches())], groups=made):
        model("omni").hf(**case.inputs)
    return found


def ran(made, case, steps) -> tuple:
    """Our output, and the layer after which each token left: int64 [1, N]."""
    with avflow.evict(model("omni"), steps, groups=made):
        ours = generate("omni", case)
    return ours, torch.from_numpy(conversation_of(cache_of(ours)).gone).long().clamp(max=NEVER)


def by_parts(parts: list, score: np.ndarray, share: float, after: int) -> torch.Tensor:
    """parts: of each token a key, None for tokens that no step names."""
    gone = torch.full((1, len(parts)), NEVER)
    for key in {part for part in parts if part is not None}:
        at = np.array([i for i, part in enumerate(parts) if part == key])
        best = at[np.argsort(-score[at], kind="stable")[: math.ceil(share * len(at))]]
        gone[0, np.setdiff1d(at, best)] = after
    return gone


@pytest.mark.parametrize("per, seconds", [("second", 1), (2.0, 2), (3, 3), (100.0, 100)])
def test_one_budget_in_each_stretch_of_time(per, seconds):
    made, case = timed()
    ours, gone = ran(made, case, [Step(AV, 1, TopK(share=0.3), per=per)])
    parts = [None if t is None else t // seconds for t in made.times]
    assert len(set(parts)) - 1 == math.ceil(5 / seconds)
    expected = by_parts(parts, scores_of(made, case, 1), 0.3, 1)
    assert gone.tolist() == expected.tolist()
    with dense("omni", cuts_of(gone, 8)):
        theirs = generate("omni", case)
    check(ours, theirs, generate("omni", case))
    table = model("omni").groups
    labels = (table.ids(made.groups), np.array(made.items), np.array(made.times, np.float64))
    counts = kept_counts(model("omni"), EvictionSchedule([Step(AV, 1, TopK(share=0.3), per=per)]), *labels)
    assert counts.tolist() == [int((gone > layer - 1).sum()) for layer in range(4)]


def test_stretches_and_the_whole_choose_otherwise():
    """Else the tests above would hold without `per`."""
    made, case = timed()
    whole, second = (ran(made, case, [Step(AV, 1, TopK(share=0.3), per=per)])[1] for per in (None, "second"))
    assert whole.tolist() != second.tolist()


def test_one_budget_over_several_groups():
    """A sum is one group of candidates: how much of the budget is video's, its scores decide."""
    made, case = timed()
    parts = [None if t is None else 0 for t in made.times]
    one, gone = ran(made, case, [Step(AV, 1, TopK(share=0.3))])
    assert gone.tolist() == by_parts(parts, scores_of(made, case, 1), 0.3, 1).tolist()
    video = np.array(made.groups) == "video"
    kept = int((gone[0].numpy() == NEVER)[video].sum())
    assert kept != math.ceil(0.3 * video.sum()) and 0 < int((gone[0].numpy() == NEVER)[~video].sum())
    with dense("omni", cuts_of(gone, 8)):
        check(one, generate("omni", case))


def test_each_item():
    """Of each frame and each segment of sound, a share."""
    made, case = timed()
    _, gone = ran(made, case, [Step(AV, 0, TopK(share=0.5), per="item")])
    parts = [(g, i) if g in ("video", "audio") else None for g, i in zip(made.groups, made.items, strict=True)]
    assert gone.tolist() == by_parts(parts, scores_of(made, case, 0), 0.5, 0).tolist()


def test_steps_of_one_group_count_what_left_before():
    """`of="prompt"`: a share of what the stretch had at first."""
    made, case = timed()
    steps = [
        Step(AV, -1, TopK(share=0.8, scored_in="next"), per=2.0),
        Step(AV, 1, TopK(share=0.5, of="prompt"), per=2.0),
    ]
    _, gone = ran(made, case, steps)
    parts = [None if t is None else t // 2 for t in made.times]
    for key in {0.0, 1.0, 2.0}:
        at = [i for i, part in enumerate(parts) if part == key]
        assert int((gone[0, at] == NEVER).sum()) == math.ceil(0.5 * len(at))
        assert int((gone[0, at] > -1).sum()) == math.ceil(0.8 * len(at))


def test_the_view_of_a_stretch():
    made, case = timed()
    seen = []

    class Looks:
        scored_in = "next"

        def select(self, view):
            seen.append((view.times, view.orders, view.total, view.groups(), view.places(), view.embeddings()))
            assert len(view.scores("question")) == len(view.orders) == len(view.media())
            return np.ones(len(view.orders), bool)

    ran(made, case, [Step(AV, -1, Looks(), per="second")])
    assert [len(orders) for _, orders, *_ in seen] == [31] * 5
    for second, (times, orders, total, names, places, embeddings) in enumerate(seen):
        assert times.tolist() == [made.times[i] for i in orders] and set(np.floor(times)) == {second}
        assert total == 31 and names.tolist() == [made.groups[i] for i in orders]
        assert places[names == "video"].tolist() == list(range(6)) and embeddings.shape == (31, 64)


def test_parts_of_a_second_end_where_it_ends():
    """In float32, 25 of a twenty-fifth are less than one."""
    table = model("omni").groups
    for step in (1 / 3, *(float(np.float32(1 / n)) for n in (3, 10, 25, 29, 50))):
        n = round(600 / step)
        labels = avflow.eviction.views.Labels(table, np.zeros(n, np.int32), np.zeros(n, np.int32), np.arange(n) * step)
        found = avflow.eviction.views.parts_of(Step("video", 0, per="second"), labels, np.arange(n))
        assert np.unique(found, return_counts=True)[1].tolist() == [round(1 / step)] * 600


def test_the_block_proves_itself_without_times():
    """With nothing dropped there is nothing to ask by the second: its own comparison needs no times."""
    made, case = timed()
    fresh = avflow.wrap(model("omni").hf)
    with warnings.catch_warnings():
        warnings.simplefilter("error", avflow.errors.AvflowWarning)
        with avflow.evict(fresh, [Step(AV, 1, TopK(share=0.3), per="second")], groups=made):
            fresh.hf(**case.inputs)
    assert compared(fresh) == 1


def test_what_is_refused():
    made, case = timed()
    steps = [Step(AV, 1, TopK(share=0.3), per="second")]
    for groups, items in ((made.groups, made.items), ([made.groups], None)):
        with avflow.evict(model("omni"), steps, groups=groups, items=items):
            with pytest.raises(avflow.InputError, match=r"per='second'\): no time is known of token \d+: pass groups="):
                generate("omni", case)
    with (
        pytest.raises(avflow.InputError, match="no time is known"),
        avflow.evict(model("omni"), [Step("question_text", 1, per=1.5)], groups=made),
    ):
        generate("omni", case)
    with (
        pytest.raises(avflow.InputError, match=r'per="item"\): token \d+ has no item'),
        avflow.evict(model("omni"), [Step("question_text", 1, per="item")], groups=made),
    ):
        generate("omni", case)
    for per in ("minute", 0, -1.0, True, float("nan"), float("inf"), [1], np.ones(2)):
        with pytest.raises(avflow.InputError, match='Step.per .* pass "item", "second", a number of seconds'):
            Step("video", 1, per=per)


def test_a_prepared_batch_has_its_samples_times():
    """Padded on the left, and repeated for beams, it keeps what each sample keeps alone."""
    omni, clip = demo_model(), str(clip_file(Clip(seconds=3)))
    ask = {"options": ["red", "green", "blue"], "answer": "green", "video": clip}
    words = ("Which color is the shape?", "Which color is the shape, if there is one at all?")
    samples = [avflow.Sample(id=str(n), question=text, **ask) for n, text in enumerate(words)]
    batch, steps = omni.prepare_batch(samples), [Step(AV, 0, TopK(share=0.2), per=1.5)]
    for beams in (1, 2):
        with avflow.evict(omni, steps, groups=batch):
            out = omni.hf.generate(
                **batch.model_inputs, max_new_tokens=2, num_beams=beams, do_sample=False, return_dict_in_generate=True
            )
        for b, prompt in enumerate(batch.prompts):
            with avflow.evict(omni, steps, groups=prompt):
                alone = conversation_of(cache_of(omni.hf(**prompt.model_inputs, use_cache=True))).gone[0]
            together = conversation_of(cache_of(out)).gone[b * beams, -len(prompt) :]
            assert together.tolist() == alone.tolist() and (alone == 0).any()


@pytest.mark.parametrize("times", [[1.0], "abc", [-1.0] * 3, [None, float("nan"), None], [None, "1", None], 5])
def test_times_that_a_prompt_refuses(times):
    with pytest.raises(avflow.InputError, match="prompt '0': (times is|a token's time)"):
        avflow.Prompt(id="0", input_ids=[1, 2, 3], groups=["video", "video", "last"], answer_ids=[1], times=times)


def test_times_of_a_prompt():
    made = avflow.Prompt(input_ids=[1, 2, 3], groups=["video"] * 2 + ["last"], answer_ids=[1], times=[0, 0.5, None])
    same = avflow.Prompt(input_ids=[1, 2, 3], groups=["video"] * 2 + ["last"], answer_ids=[1], times=(0.0, 0.5, None))
    assert made.times == [0.0, 0.5, None] and made == same
    same.times = None
    assert made != same
