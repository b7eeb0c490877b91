"""Items with candidates and a reference: from image and sound files to labelled prompts, sweeps and run folders."""

import json
import wave

import numpy as np
import oracle
import pyarrow.parquet as pq
import pytest
import torch
from command import avflow_
from demo_folder import model
from PIL import Image
from prompt_reading import runs, text_of

import avflow
import avflow.models
from avflow.knockouts.presets import as_knockouts


def write_png(path, pixels):
    Image.fromarray(pixels).save(path)


def write_wav(path, sound):
    with wave.open(path, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((sound * 32767).astype(np.int16).tobytes())


def _files(folder):
    pictures, sounds = [], []
    rng = np.random.default_rng(0)
    for i in range(3):
        pictures.append(str(folder / f"{i}.png"))
        write_png(pictures[-1], rng.integers(0, 255, (56 + 28 * i, 56, 3), dtype=np.uint8))
        sounds.append(str(folder / f"{i}.wav"))
        write_wav(sounds[-1], rng.normal(0, 0.1, 16000 + 8000 * i).astype(np.float32))
    return pictures, sounds


def _sample(folder, reference: str, **more) -> avflow.Sample:
    pictures, sounds = _files(folder)
    candidates, other = (sounds, pictures[2]) if reference == "image" else (pictures, sounds[2])
    values = {"id": reference, "question": "Which one fits?", "answer": "B", "task": f"{reference} reference"} | more
    return avflow.Sample(candidates=candidates, reference=other, **values)


def _tokens(reference: str) -> list[int]:
    """Media tokens of the candidates in turn, then of the reference."""
    image, sound = [4, 6, 8], [25, 37, 50]  # 28 x 28 pixels a token; 25 tokens a second
    return [*sound, image[2]] if reference == "image" else [*image, sound[2]]


@pytest.mark.parametrize("reference", ["image", "audio"])
def test_every_token_has_its_role(reference, tmp_path):
    prompt = model().prepare(_sample(tmp_path, reference))
    found = runs(prompt.groups, prompt.items)
    assert [r for r in found if r[0] not in ("template", "system")] == [
        ("candidate_incorrect", 0, _tokens(reference)[0]),
        ("candidate_correct", 1, _tokens(reference)[1]),
        ("candidate_incorrect", 2, _tokens(reference)[2]),
        *[r for r in found if r[0] == "question_text"][:1],
        ("reference", 0, _tokens(reference)[3]),
        *[r for r in found if r[0].startswith("option")],
        *[r for r in found if r[0] == "question_text"][1:],
        ("last", -1, 1),
    ]
    assert [r[:2] for r in found if r[0].startswith("option")] == [
        ("option_incorrect", 0),
        ("option_correct", 1),
        ("option_incorrect", 2),
    ]
    assert text_of(prompt, "option_correct") == "B\n" and text_of(prompt, "option_incorrect", 0) == "A\n"
    assert text_of(prompt, "question_text").startswith("Which one fits?\n")
    said = model().processor.tokenizer.decode(prompt.input_ids)
    assert said.index("Candidate A: <") < said.index("Candidate C: <") < said.index("Which one") < said.index("A\nB\nC")
    tokenizer = model().processor.tokenizer
    assert prompt.option_ids == [tokenizer.convert_tokens_to_ids(x) for x in "ABC"]
    assert prompt.answer_ids == prompt.option_ids[1:2]
    with torch.no_grad():
        assert torch.isfinite(model().hf(**prompt.model_inputs).logits).all()


def test_media_are_read_in_the_order_of_the_text(tmp_path):
    """The third candidate is seen where it stands: with another file, embeddings differ there, and only there."""
    from avflow.walk.capture import capture

    sample = _sample(tmp_path, "audio")
    a = capture(model(), model().prepare(sample)).hidden[0]
    pictures = sample.candidates
    write_png(pictures[2], np.zeros((112, 56, 3), np.uint8))
    prompt = model().prepare(sample)
    changed = (a != capture(model(), prompt).hidden[0]).any(-1).nonzero()[:, 0].tolist()
    assert changed and {(prompt.groups[i], prompt.items[i]) for i in changed} == {("candidate_incorrect", 2)}


@pytest.mark.parametrize("reference", ["image", "audio"])
def test_the_preset_is_exact_on_files(reference, tmp_path):
    prompt, knockouts = model().prepare(_sample(tmp_path, reference)), as_knockouts("interleaved")
    rows = avflow.sweep(model(), prompt, "interleaved", window=3, layers=[1], select="all").table.to_pylist()
    assert len(rows) == 13 and {r["status"] for r in rows} == {"ok"}
    for row in rows:
        knockout = next(k for k in knockouts if k.name == row["knockout"])
        layers = range(row["first_layer"], row["last_layer"] + 1)
        assert abs(row["logp_knockout"] - oracle.answer_logp(model().hf, prompt, knockout, layers)[0]) <= 1e-4


def test_from_a_file_of_samples_to_a_run(tmp_path, monkeypatch):
    samples = [_sample(tmp_path, r) for r in ("image", "audio")]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(s.to_json() + "\n" for s in samples))
    loaded = model()
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: loaded)
    more = ["--knockouts", "interleaved", "--layers", "0", "--select", "all"]
    result = avflow_("sweep", "m", path, "--out", tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "run" / "rows.parquet")
    assert set(table["task"].to_pylist()) == {"image reference", "audio reference"} and table.num_rows == 26
    assert not json.loads((tmp_path / "run" / "summary.json").read_text())["failed"]


def test_bad_items(tmp_path):
    sample = _sample(tmp_path, "image")
    write_wav(sample.candidates[0], np.zeros(100, np.float32))
    with pytest.raises(avflow.MediaError, match="0.1 s is the shortest"):
        model().prepare(sample)
    sample.candidates[0] = str(tmp_path / "gone.wav")
    with pytest.raises(avflow.MediaError, match="gone.wav"):
        model().prepare(sample)
    with pytest.raises(avflow.InputError, match="special token"):
        model().prepare(_sample(tmp_path, "audio", question="Which <|im_end|>?"))


def test_families_without_interleaved_items_say_so(tmp_path):
    from tiny_salmonn import thinker

    with pytest.raises(avflow.UnsupportedModelError, match="does not lay out"):
        avflow.wrap(thinker()).prepare(_sample(tmp_path, "image"))
