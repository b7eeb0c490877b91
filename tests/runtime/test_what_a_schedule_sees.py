"""A schedule drops what its groups name and nothing else: labels off the ids, of a prompt, of a batch."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import pytest
import torch
from transformers import DynamicCache

import avflow
from avflow.models.compat import cache_argument
from avflow.synthetic import make_items, write_items

CHOSEN = {"video": 6, "audio": 6, "question_text": 2}
CUT = "video->question"


@lru_cache
def omni() -> avflow.Model:
    return avflow.load("tiny-omni")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[avflow.Sample]:
    return avflow.Sample.read_jsonl(write_items(make_items("heldout", 18, seed=99), tmp_path_factory.mktemp("clips")))


def answer(prompt: avflow.Prompt) -> str:
    ids = omni().hf.generate(**prompt.model_inputs, max_new_tokens=1, do_sample=False)
    return omni().text(ids[0, -1:].tolist())


def test_options_stay_where_the_question_leaves(samples):
    """The answer's options are no part of `question_text`; to the ids alone they are, and without them it is chance."""
    counts = {"plain": 0, "groups": 0, "ids": 0}
    for sample in samples:
        prompt = omni().prepare(sample)
        counts["plain"] += answer(prompt) == sample.answer
        with avflow.evict(omni(), CHOSEN, groups=prompt):
            counts["groups"] += answer(prompt) == sample.answer
        with pytest.raises(avflow.InputError, match="do not tell 'question_text'.*groups=prompt"):
            with avflow.evict(omni(), CHOSEN):
                answer(prompt)
        with avflow.evict(omni(), CHOSEN, groups="ids"):
            counts["ids"] += answer(prompt) == sample.answer
    assert counts["plain"] == 18 and counts["groups"] >= 16
    assert counts["ids"] <= 8  # what was refused, about chance: all of the user's text gone after layer 2


@pytest.mark.parametrize("group", ["options", "video+question", "candidates", "reference", "text"])
def test_groups_that_ids_do_not_tell(group):
    steps = [avflow.Step(group, 2)]
    with pytest.raises(avflow.InputError, match=f"drops '.*' after layer 2, .*|group '{group}' holds 'last'"):
        with avflow.evict(omni(), steps):
            pass


def test_media_need_no_groups(samples):
    prompt = omni().prepare(samples[0])
    found = []
    for groups in (None, "ids", prompt):
        with avflow.evict(omni(), {"media": 2, "system": 1}, groups=groups):
            found.append(omni().hf(**prompt.model_inputs).logits[0, -1])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_block_within_takes_the_groups_of_the_one_around(samples):
    prompt = omni().prepare(samples[0])
    with avflow.evict(omni(), CHOSEN, groups=prompt):
        alone = omni().hf(**prompt.model_inputs).logits[0, -1]
    with avflow.knockout(omni(), "video->system", groups=prompt), avflow.evict(omni(), CHOSEN):
        assert torch.equal(omni().hf(**prompt.model_inputs).logits[0, -1], alone)  # system stands before video


def test_labelling_is_kept_in_the_file(tmp_path, samples):
    chosen = avflow.EvictionSchedule(CHOSEN, labelling="prompt")
    chosen.save(tmp_path / "s.json")
    assert avflow.EvictionSchedule.load(tmp_path / "s.json") == chosen
    by_ids = avflow.EvictionSchedule(CHOSEN, labelling="ids")
    prompt = omni().prepare(samples[0])
    with avflow.evict(omni(), by_ids):  # chosen so: all of the user's text may leave
        first = omni().hf(**prompt.model_inputs).logits
    with avflow.evict(omni(), CHOSEN, groups="ids"):
        assert torch.equal(first, omni().hf(**prompt.model_inputs).logits)
    (tmp_path / "bad.json").write_text((tmp_path / "s.json").read_text().replace('"prompt"', '"guess"'))
    with pytest.raises(avflow.InputError, match="labelling is 'guess'"):
        avflow.EvictionSchedule.load(tmp_path / "bad.json")
    with pytest.raises(avflow.InputError, match="labelling"):
        avflow.EvictionSchedule(CHOSEN, labelling="guess")


@pytest.mark.parametrize("name", ["tiny-omni", "tiny-salmonn"])
def test_a_batch_is_its_samples(name, samples):
    """Other lengths of text, and the same logits and tokens as one by one."""
    model = omni() if name == "tiny-omni" else avflow.load(name)
    chosen = samples[:3]
    batch = model.prepare_batch(chosen)
    assert len(batch) == 3 and batch.prompts[1].sample is chosen[1]
    shape = batch.model_inputs["input_ids"].shape
    assert shape == (3, max(map(len, batch.prompts))) and len({len(p) for p in batch.prompts}) > 1
    assert batch.model_inputs["attention_mask"].sum(1).tolist() == [len(p) for p in batch.prompts]
    assert [len(row) for row in batch.groups] == [shape[1]] * 3 == [len(row) for row in batch.items]
    with avflow.evict(model, CHOSEN, groups=batch):
        together = model.hf(**batch.model_inputs).logits[:, -1]
        ids = model.hf.generate(**batch.model_inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)[:, -3:]
    with torch.no_grad():
        plain = model.hf(**batch.model_inputs).logits[:, -1]
    for row, prompt in enumerate(batch.prompts):
        with avflow.evict(model, CHOSEN, groups=prompt):
            alone = model.hf(**prompt.model_inputs).logits[0, -1]
            tokens = model.hf.generate(**prompt.model_inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        assert (together[row] - alone).abs().max() < 2e-3
        assert (together[row] - plain[row]).abs().max() > 1e-2
        assert ids[row].tolist() == tokens[0, -3:].tolist()


def test_labels_of_another_prompt_are_refused(samples):
    """One as long fits by its shape, and then other tokens would be dropped or cut without a word."""
    one, two = (omni().prepare_batch(chosen) for chosen in (samples[:2], samples[1::-1]))
    ids = one.prompts[0].input_ids.clone()
    ids[-3] += 1
    for block in (lambda g: avflow.evict(omni(), CHOSEN, groups=g), lambda g: avflow.knockout(omni(), CUT, groups=g)):
        with pytest.raises(avflow.InputError, match=r"of other tokens than .*\(sequence 0, token \d+\)"), block(two):
            omni().hf(**one.model_inputs)
        with block(one.prompts[0]):
            with pytest.raises(avflow.InputError, match=rf"\(sequence 0, token {len(ids) - 3}\): pass the one that"):
                omni().hf.generate(**{**one.prompts[0].model_inputs, "input_ids": ids[None]}, max_new_tokens=1)
        with block(one):
            omni().hf.generate(**one.model_inputs, max_new_tokens=2, num_beams=2, do_sample=False)


def test_batches_that_cannot_be(samples):
    with pytest.raises(avflow.InputError, match="a batch of no samples"):
        omni().prepare_batch([])
    with pytest.raises(avflow.InputError, match="pass a list of avflow.Sample"):
        omni().prepare_batch(samples[0])
    import dataclasses

    silent = dataclasses.replace(samples[1], use_audio_in_video=False)
    with pytest.raises(avflow.InputError, match="needs use_audio_in_video=False.*batches of their own"):
        omni().prepare_batch([samples[0], silent])
    batch = omni().prepare_batch(samples[:2])
    with pytest.raises(avflow.InputError, match="which has its own: leave items out"):
        with avflow.evict(omni(), {"video": 1}, groups=batch, items=batch.items):
            pass
    with pytest.raises(avflow.InputError, match="items= without groups="):
        with avflow.knockout(omni(), "video->last", items=batch.items):
            pass


def silent(sample: avflow.Sample) -> avflow.Sample:
    return dataclasses.replace(sample, use_audio_in_video=False)


@pytest.mark.parametrize("keep", [{}, {"keep": avflow.TopK(0.5)}, {"keep": avflow.EveryNth(2)}])
def test_one_schedule_for_requests_with_sound_and_without(samples, keep):
    """The step of a group that is not there waits: as if the schedule did not have it; by default it is a slip."""
    both = [avflow.Step("video", 6, **keep), avflow.Step("audio", 4, **keep)]
    prompt = omni().prepare(silent(samples[0]))
    with avflow.evict(omni(), both[:1], groups=prompt):
        wanted = omni().hf(**prompt.model_inputs).logits
    with avflow.evict(omni(), both, groups=prompt, missing="ignore"):
        assert torch.equal(omni().hf(**prompt.model_inputs).logits, wanted)
    with pytest.raises(avflow.InputError, match="no such token.*missing="), avflow.evict(omni(), both, groups=prompt):
        omni().hf(**prompt.model_inputs)
    with pytest.raises(avflow.InputError, match="missing = 'skip'"), avflow.evict(omni(), both, missing="skip"):
        pass


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_text_alone_is_the_plain_run_and_media_may_come_later(samples, decode):
    prompt = omni().prepare(samples[0])
    system = prompt.model_inputs["input_ids"][:, :4]
    how = dict(max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)

    def two_turns() -> list[torch.Tensor]:
        cache = DynamicCache(config=omni().config)
        turns = ({"input_ids": system}, prompt.model_inputs)
        return [omni().hf.generate(**turn, **{cache_argument(): cache}, **how).logits[0] for turn in turns]

    plain = two_turns()
    with avflow.evict(omni(), {"video": 6, "audio": 4}, decode, missing="ignore"):
        found = two_turns()
    with avflow.evict(omni(), {"video": 6, "audio": 4}, decode, groups=prompt.groups, items=prompt.items):
        told = two_turns()  # the labels of both turns: media are expected
    torch.testing.assert_close(found[0], plain[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(found[1], told[1]) and not torch.allclose(found[1], plain[1], atol=1e-2)
