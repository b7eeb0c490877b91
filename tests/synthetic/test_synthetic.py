"""The synthetic question set: the same from the same seed, splits apart, answers that its clips really show."""

import dataclasses
import itertools

import numpy as np
import pytest
import scene_reading as read

from avflow.errors import InputError
from avflow.media.audio import align_sound, read_audio
from avflow.media.video import read_video
from avflow.prompts.sample import Sample
from avflow.synthetic import TASKS, answer, ask, frames_read, make_items, make_scene, waveform, write_items
from avflow.synthetic.files import write_media
from avflow.synthetic.picture import draw, frames
from avflow.synthetic.questions import NUMBERS
from avflow.synthetic.scene import PICTURES, SOUNDS

ITEMS = make_items("train", 270, seed=3)


def test_items_follow_from_the_seed_and_their_number():
    again = make_items("train", 40, seed=3)
    assert again == ITEMS[:40]
    assert make_items("train", 40, seed=4) != again
    scene = again[5].scene
    assert np.array_equal(waveform(scene), waveform(scene)) and np.array_equal(draw(scene, 1.3), draw(scene, 1.3))
    assert len({item.id for item in ITEMS}) == len(ITEMS)
    assert [item.question.task for item in ITEMS[: len(TASKS)]] == list(TASKS)


def test_train_and_held_out_share_no_scene():
    train = {item.scene.content for seed in range(4) for item in make_items("train", 400, seed)}
    held = {item.scene.content for seed in range(4) for item in make_items("heldout", 400, seed)}
    assert len(train) > 1000 and len(held) > 200 and not train & held
    assert all(item.scene.split == "heldout" for item in make_items("heldout", 40))


def test_split_does_not_depend_on_jitter():
    for item in ITEMS[:50]:
        moved = dataclasses.replace(item.scene, jitter=item.scene.jitter + 1)
        assert moved.split == item.scene.split and moved.content == item.scene.content
        assert not np.array_equal(waveform(moved), waveform(item.scene))


def test_about_one_content_in_ten_is_held_out():
    rng = np.random.default_rng(0)
    from avflow.synthetic.scene import _draw

    drawn = [_draw(rng, p, s) for p, s in itertools.product(PICTURES, SOUNDS) for _ in range(200)]
    assert 0.07 < np.mean([s.split == "heldout" for s in drawn]) < 0.13


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_seen_and_heard_in_the_clip(task):
    for item in make_items("train", 25, seed=9, tasks=[task]):
        scene = item.scene
        first, last = draw(scene, 0.0), draw(scene, 3.9)
        sound = waveform(scene)
        shown = [read.shape(read.shapes_in(f)[0]) for f in (first, last)]
        beeps = len(read.bursts(sound))
        if task == "tone_shape":  # the tone is in the half of the clip whose sound is one steady frequency
            steady = [(a, b) for a, b in read.bursts(sound) if b - a > 8000 and read.is_tone(sound[a:b])]
            found = shown[int(steady[0][0] >= 2 * read.RATE)] if len(steady) == 1 else steady
        else:
            found = {
                "color": lambda: read.color(first),  # noqa: B023
                "shape": lambda: shown[0],  # noqa: B023
                "direction": lambda: read.direction(first, last),  # noqa: B023
                "number": lambda: NUMBERS[len(read.shapes_in(first)) - 1],  # noqa: B023
                "pitch": lambda: read.pitch(sound),  # noqa: B023
                "rhythm": lambda: read.rhythm(sound),  # noqa: B023
                "count": lambda: NUMBERS[beeps - 1],  # noqa: B023
                "match": lambda: "yes" if beeps == len(read.shapes_in(first)) else "no",  # noqa: B023
            }[task]()
        assert found == item.question.answer == answer(scene, task), item


def test_options_hold_the_answer_and_favour_no_letter():
    places = []
    for item in ITEMS:
        q, task = item.question, TASKS[item.question.task]
        assert q.answer in q.options and len(set(q.options)) == len(q.options) == task.shown
        assert set(q.options) <= set(task.answers)
        if q.task == "tone_shape":
            assert set(item.scene.shapes) <= set(q.options)  # the shape of the other half is always a choice
        if task.shown == 3:
            places.append(q.options.index(q.answer))
    counts = np.bincount(places, minlength=3) / len(places)
    assert counts.min() > 0.24, counts


def test_answers_within_a_task_are_balanced():
    for task in TASKS.values():
        found = [i.question.answer for i in make_items("train", 400, seed=1, tasks=[task.name])]
        share = {a: found.count(a) / len(found) for a in task.answers}
        assert max(share.values()) < 1.5 / len(task.answers) and min(share.values()) > 0.6 / len(task.answers), share


def test_a_task_needs_the_scenes_it_is_about():
    rng = np.random.default_rng(0)
    scene = make_scene(rng, "train", "single", "pair")
    with pytest.raises(InputError, match="'count' cannot be asked of a single picture with the sound pair"):
        ask(scene, "count", rng)
    with pytest.raises(InputError, match="task 'smell'"):
        answer(scene, "smell")
    with pytest.raises(InputError, match="split 'test': pass one of train, heldout"):
        make_items("test", 1)
    with pytest.raises(InputError, match="picture 'film'"):
        make_scene(rng, "train", "film")


def test_clips_hold_what_the_scene_says(tmp_path):
    items = make_items("heldout", len(TASKS), seed=2)
    path = write_items(items, tmp_path)
    samples = Sample.read_jsonl(path)
    assert [s.task for s in samples] == list(TASKS)
    for item, sample in zip(items, samples, strict=True):
        assert sample.options == list(item.question.options)
        assert sample.options[sample.answer_index] == item.question.answer
        video = read_video(sample.video, size=lambda *_: (56, 56))
        ours = frames_read(item.scene, 56)
        assert video.frames.shape == ours.shape == (8, 3, 56, 56) and video.duration == 4.0
        assert (video.frames.float() - ours.float()).abs().mean() < 4  # of 255
        sound, _ = align_sound(read_audio(sample.video, start=video.start), video.duration)
        heard, made = (np.abs(np.fft.rfft(s)) for s in (sound, waveform(item.scene)))
        assert len(sound) == 64000 and np.corrcoef(heard[200:12000], made[200:12000])[0, 1] > 0.9
        assert len(read.bursts(sound)) == len(read.bursts(waveform(item.scene)))


def test_a_clip_without_a_frame_is_an_error(tmp_path):
    with pytest.raises(InputError, match="at least one frame"):
        write_media(tmp_path / "a.mp4", [], 8, None)
    assert list(tmp_path.iterdir()) == []


def test_frames_are_those_that_the_reader_samples():
    times = np.array([0, 4, 9, 13, 18, 22, 27, 31]) / 8
    scene = ITEMS[0].scene
    shown = frames(scene, times)
    ours = frames_read(scene, shown.shape[1])
    assert np.array_equal(ours.permute(0, 2, 3, 1).numpy(), shown)
