"""Training of the small model: it trains on what model.prepare gives, and a killed run ends as an unbroken one."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))
import network  # noqa: E402
import train  # noqa: E402
from batches import Batches, labels_of, questions_of, training_scene  # noqa: E402
from families import FAMILIES, SIDE  # noqa: E402
from lineups import LineupBatches  # noqa: E402

import avflow  # noqa: E402
from avflow.models.compat import find_text_model
from avflow.synthetic import LINEUP_TASKS, LineupItem, make_items, make_scene, write_items  # noqa: E402

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "training" / "tiny-omni.yaml").read_text(encoding="utf-8"))
TINY = CONFIG | {
    "model": {
        "family": "qwen2_5_omni",
        "layers": 4,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 1,
        "intermediate": 32,
        "towers": 16,
    },
    "data": CONFIG["data"] | {"scenes": 2, "choices": 2, "open": 1, "workers": 0},
    "stages": {
        "towers": 2,
        "shallow": 2,
        "shallow_layers": 2,
        "later": 3,
        "shallow_fall": 1,
        "whole": 2,
        "fall": 1,
        "interleaved": 2,
        "interleaved_fall": 1,
        "interleaved_scenes": 2,
    },  # fmt: skip
    "evaluate": {"every": 2, "scenes": 16},
    "save_every": 1,
}


MEL = {"qwen2_5_omni": "input_features", "video_salmonn2_plus": "audio_features"}
SALMONN = TINY | {
    "model": TINY["model"] | {"family": "video_salmonn2_plus"},
    "stages": TINY["stages"] | {"interleaved": 0},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Layout and parts of a tiny run, and the folder of its first weights."""
    return started(TINY, tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def both(start, tmp_path_factory):
    """`start` of either architecture."""
    return {"qwen2_5_omni": start, "video_salmonn2_plus": started(SALMONN, tmp_path_factory.mktemp("salmonn"))}


def started(config, out):
    torch.manual_seed(0)
    return (*train.layout(config, out), out / "start")


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_questions_get_the_logits_of_their_own_prompts(both, tmp_path, name):
    blocks, head, _, _, folder = both[name]
    model = avflow.load(folder)
    items = make_items("heldout", 2, seed=5, tasks=["tone_shape", "match"])
    samples = avflow.Sample.read_jsonl(write_items(items, tmp_path))
    prompts = [model.prepare(s) for s in samples]
    packed = network.Packed(FAMILIES[name], copy.deepcopy(model.hf), head, blocks.lengths, blocks.counts).eval()
    for item, sample, prompt in zip(items, samples, prompts, strict=True):
        other = questions_of(item.scene, np.random.default_rng(0), 1, {})
        questions = [item.question, *other, item.question]  # two with options, one to be answered with a word
        row = blocks.pack(questions)
        targets = row["targets"]
        batch = {
            "patches": prompt.model_inputs["pixel_values_videos"],
            "grid": prompt.model_inputs["video_grid_thw"],
            "mel": prompt.model_inputs[MEL[name]],
            **{k: torch.tensor([v]) for k, v in row.items()},
        }
        with torch.no_grad():
            ours = packed.answers(batch, *packed.see_and_hear(batch))[0][0]  # [3, vocab]
            theirs = model.hf(**prompt.model_inputs).logits[0, -1]
            word = avflow.Sample("w", sample.question, answer=item.question.answer, video=sample.video)
            open_prompt = model.prepare(word)
            open_logits = model.hf(**open_prompt.model_inputs).logits[0, -1]
        torch.testing.assert_close(ours[0], theirs, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(ours[2], open_logits, atol=2e-5, rtol=1e-4)
        assert [targets[0]] == prompt.answer_ids and [targets[2]] == open_prompt.answer_ids
        assert blocks.letters[: len(sample.options)] == prompt.option_ids
        words = [model.text([row["ids"][at]]) for at in row["options"][0] if at >= 0]
        assert words == [f" {o}" for o in sample.options] and sample.answer_index == row["right"][0]


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_are_what_prepare_gives_but_for_the_codec(both, tmp_path, name):
    blocks, _, parts, _, folder = both[name]
    family = FAMILIES[name]
    batches = Batches(family, blocks, **parts, split="heldout", seed=0, scenes=8, balanced=True)
    batch, again = batches[0], batches[0]
    assert all(torch.equal(batch[k], again[k]) for k in ("patches", "mel", "ids", "targets"))
    assert not torch.equal(batch["mel"], batches[1]["mel"])
    from avflow.synthetic import frames_read, waveform

    item = make_items("heldout", 1, seed=7)[0]
    prompt = avflow.load(folder).prepare(avflow.Sample.read_jsonl(write_items([item], tmp_path))[0])
    made = family.mel(parts["extractor"], [waveform(item.scene)])[0]
    read = prompt.model_inputs[MEL[name]][0]
    assert read.shape == made.shape and np.corrcoef(read[:60].ravel(), made[:60].ravel())[0, 1] > 0.9
    video = batches.videos(
        [frames_read(item.scene, SIDE, family.frames)], {"shortest_edge": 3136, "longest_edge": 3136}
    )
    read, made = prompt.model_inputs["pixel_values_videos"], video["pixel_values_videos"]
    assert read.shape == made.shape and (read - made).abs().mean() < 0.06  # of a standard deviation of all pictures


@pytest.mark.parametrize("task", LINEUP_TASKS)
def test_packed_references_get_the_logits_of_their_own_prompts(start, tmp_path, task):
    """Batch and packing together: candidates, question and four references in one row, against four prompts."""
    blocks, head, parts, rows, folder = start
    model = avflow.load(folder)
    with torch.no_grad():
        model.hf.lm_head.weight *= 50  # first weights give all logits near 0: nothing to compare
    packed = network.Packed(
        FAMILIES["qwen2_5_omni"], copy.deepcopy(model.hf), head, blocks.lengths, blocks.counts
    ).eval()
    lineups = [item.lineup for item in make_items("heldout", 2, seed=4, tasks=[task])]
    batch = LineupBatches(**parts, split="heldout", seed=0, scenes=2)._batch(lineups)
    with torch.no_grad():
        ours, _, _ = packed.lineup_answers(rows[task], batch, *packed.see_and_hear(batch))  # [2, 4, vocab]
    items = [LineupItem(f"{n}-{right}", line, right) for n, line in enumerate(lineups) for right in range(4)]
    prompts = [model.prepare(s) for s in avflow.Sample.read_jsonl(write_items(items, tmp_path))]
    for item, prompt, logits in zip(items, prompts, ours.flatten(0, 1), strict=True):
        with torch.no_grad():
            theirs = model.hf(**prompt.model_inputs).logits[0, -1]
        # Sounds are written in 16 bit; another reference is three times further away, at least (below).
        torch.testing.assert_close(logits, theirs, atol=2e-2, rtol=1e-3)
        assert int(rows[task].targets[item.right]) == prompt.answer_ids[0]
    apart = (ours[:, 1:] - ours[:, :1]).abs().amax(-1)
    assert apart.min() > 0.06, apart
    letters = [model.text([int(rows[task].ids[at])]) for at in rows[task].letters[1]]
    assert letters == ["A", "B", "C", "D"]


def test_training_scenes_are_of_their_split():
    rng = np.random.default_rng(0)
    assert all(training_scene(rng, split).split == split for split in ("train", "heldout") for _ in range(50))


def test_scenes_come_as_often_as_the_configuration_says():
    kinds = [{"picture": "crowd", "sound": "beeps", "share": 0.5}, {"picture": None, "sound": "pair", "share": 0.5}]
    rng = np.random.default_rng(0)
    found = [training_scene(rng, "train", kinds) for _ in range(200)]
    beeps = [s for s in found if s.sound == "beeps"]
    assert {s.picture for s in beeps} == {"crowd"} and 70 < len(beeps) < 130
    assert len({s.picture for s in found if s.sound == "pair"}) == 3 and {s.sound for s in found} == {"beeps", "pair"}


def test_a_token_of_half_a_second_is_labelled_as_a_whole():
    family, rng = FAMILIES["video_salmonn2_plus"], np.random.default_rng(1)
    for _ in range(40):
        scene = make_scene(rng, "train", sound="beeps")
        labels = labels_of(scene, family)
        assert labels["onsets"].shape == labels["most_kind"].shape == (12,) and labels["onset"].shape == (144,)
        assert labels["onsets"].sum() == scene.beeps
        pitches = set(labels["most_pitch"].tolist())
        assert pitches == {scene.levels[0], 5}  # the tone's, and silence
        assert (labels["most_kind"][8:] == 0).all()  # what lies behind the clip is silence


def test_a_deeper_model_starts_near_the_shallow_one(start):
    blocks, head, parts, _, _ = start
    batch = Batches(FAMILIES["qwen2_5_omni"], blocks, **parts, split="train", seed=0, scenes=2)[0]
    shallow = train.build(TINY, blocks, head, 0)
    deep = train.grow(TINY, shallow, blocks, head, 10)
    assert len(find_text_model(deep.hf).layers) == 4
    assert len(find_text_model(shallow.hf).layers) == 2
    with torch.no_grad():
        near, fresh = (p.answers(batch, *p.see_and_hear(batch))[0] for p in (deep, train.build(TINY, blocks, head, 10)))
        goal, _ = shallow.answers(batch, *shallow.see_and_hear(batch))
    assert (near - goal).norm() < 0.5 * (fresh - goal).norm()


@pytest.mark.slow
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    train.train(TINY, tmp_path / "whole")
    wanted = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)["model"]
    for kill in (1, 3, 5, 7):  # within each stage
        out, count, save = tmp_path / f"killed{kill}", 0, torch.save

        def stop(*args, kill=kill, save=save):
            nonlocal count
            count += 1
            if count > kill:
                raise KeyboardInterrupt
            save(*args)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(torch, "save", stop)
            train.train(TINY, out)
        train.train(TINY, out)
        state = torch.load(out / "state.pt", weights_only=True)
        assert state["step"] == 8
        assert all(torch.equal(state["model"][k], wanted[k]) for k in wanted)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert avflow.load(tmp_path / "whole" / "checkpoint").n_layers == 4
    assert {"find_image", "find_sound", "color"} <= set(lines[-1]["heldout"]) and "find_image" not in lines[-2][
        "heldout"
    ]


@pytest.mark.slow
def test_salmonn_trains_through_all_of_its_stages(tmp_path):
    train.train(SALMONN, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6] and "color" in lines[-1]["heldout"]
    start, end = (avflow.load(tmp_path / name).hf.state_dict() for name in ("start", "checkpoint"))
    still = [name for name, old in start.items() if old.ndim > 1 and torch.equal(old, end[name])]
    assert still == ["audio.encoder.embed_positions.weight"]  # Whisper's table; all else has learned
