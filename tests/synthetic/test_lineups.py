"""Interleaved items of the question set: pairs that can be seen and heard in the files, splits apart, fair letters."""

import dataclasses

import numpy as np
import pytest
import scene_reading as read

from avflow.errors import InputError
from avflow.media.audio import read_audio
from avflow.media.stills import read_image
from avflow.prompts.sample import Sample
from avflow.synthetic import LINEUP_TASKS, make_items, make_lineup, write_items
from avflow.synthetic.lineup import PAIRS, SOUND_SECONDS
from avflow.synthetic.scene import COLORS, LEVELS

TASKS = list(LINEUP_TASKS)
ITEMS = make_items("train", 200, seed=3, tasks=TASKS)


def test_every_pitch_belongs_to_one_color():
    assert sorted(PAIRS.values()) == list(range(len(LEVELS))) and set(PAIRS) < set(COLORS)


def test_items_follow_from_the_seed_and_their_number():
    assert make_items("train", 30, seed=3, tasks=TASKS) == ITEMS[:30]
    assert make_items("train", 30, seed=4, tasks=TASKS) != ITEMS[:30]
    assert [item.lineup.task for item in ITEMS[:4]] == TASKS * 2
    mixed = make_items("heldout", 4, tasks=["color", "find_image"])
    assert [item.id.rsplit("-", 1)[1] for item in mixed] == ["color", "find_image"] * 2


def test_train_and_held_out_share_no_candidates():
    train, held = (
        {item.lineup.content for seed in range(3) for item in make_items(split, 400, seed, TASKS)}
        for split in ("train", "heldout")
    )
    assert len(train) > 1000 and len(held) > 300 and not train & held
    rng = np.random.default_rng(0)
    for item in ITEMS[:30]:  # the jitter and the reference do not count
        first = dataclasses.replace(item.lineup.candidates[0], jitter=1)
        other = make_lineup(rng, "heldout", item.lineup.task).references
        moved = dataclasses.replace(item.lineup, candidates=(first, *item.lineup.candidates[1:]), references=other)
        assert moved.split == "train" and moved.content == item.lineup.content


def test_no_letter_color_or_shape_gives_the_answer_away():
    rights = np.array([item.right for item in make_items("train", 800, seed=1, tasks=TASKS)])
    assert 0.2 < np.bincount(rights, minlength=4).min() / len(rights)
    items = make_items("train", 800, seed=2, tasks=["find_image"])
    shared = [i.lineup.candidates[i.right].shape == i.lineup.candidates[(i.right + 1) % 4].shape for i in items]
    assert 0.18 < np.mean(shared) < 0.32  # a shape is as often that of a wrong candidate as of four it would be
    for item in items[:50]:
        assert len({c.color for c in item.lineup.candidates}) == 4
        assert [r.color for r in item.lineup.references] == [c.color for c in item.lineup.candidates]


def _pair(path: str) -> str:
    """The color that a file shows, or that its pitch stands for, from its pixels or its sound alone."""
    if path.endswith(".png"):
        return read.color(read_image(path).permute(1, 2, 0).numpy())
    sound = read_audio(path)
    assert len(sound) == round(16000 * SOUND_SECONDS)
    level = int(np.abs(np.log(np.array(LEVELS) / read.frequency(sound))).argmin())
    return next(color for color, n in PAIRS.items() if n == level)


@pytest.mark.parametrize("task", TASKS)
def test_the_right_candidate_alone_matches_in_the_files(task, tmp_path):
    samples = Sample.read_jsonl(write_items(make_items("heldout", 12, seed=9, tasks=[task]), tmp_path))
    for sample in samples:
        assert sample.task == task and sample.question == LINEUP_TASKS[task].question
        assert sample.candidate_kind == ("image" if LINEUP_TASKS[task].reference == "audio" else "audio")
        shown = [_pair(c) for c in sample.candidates]
        assert shown.index(_pair(sample.reference)) == sample.answer_index and len(set(shown)) == 4


def test_a_tone_is_struck_as_often_as_it_says():
    for item in make_items("train", 40, seed=5, tasks=["find_sound"]):
        for tone in item.lineup.candidates:
            sound = tone.waveform()
            assert sound.dtype == np.float32 and np.abs(sound).max() < 0.6
            quiet = np.abs(sound).reshape(-1, 320).max(1) < 0.05  # in parts of 20 ms
            inner = quiet[3:-3]
            assert bool(inner.any()) == (tone.strikes == 2)


def test_unknown_tasks_are_named():
    with pytest.raises(InputError, match="task 'smell': pass one of find_image, find_sound"):
        make_lineup(np.random.default_rng(0), "train", "smell")
    with pytest.raises(InputError, match="split 'test': pass one of train, heldout"):
        make_lineup(np.random.default_rng(0), "test", "find_image")
    with pytest.raises(InputError, match="task 'smell': pass one of color.*find_sound"):
        make_items("train", 1, tasks=["smell"])
