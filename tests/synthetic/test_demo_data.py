"""The demo's files: complete, loadable by transformers itself, the same every time, and with right answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import COLORS, PITCHES, Clip, write_clip
from demo_folder import demo, model
from random_demo import QUESTIONS, make, make_clips, make_samples

from avflow.errors import InputError
from avflow.media.audio import read_audio
from avflow.media.video import read_video
from avflow.prompts.sample import Sample
from avflow.tiny.checkpoint import Tiny, build

# What the folder of a published Qwen2.5-Omni holds, but for the speech half.
FILES = (
    "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json vocab.json merges.txt "
    "added_tokens.json special_tokens_map.json preprocessor_config.json chat_template.json"
).split()


def test_the_checkpoint_has_the_files_and_names_of_a_published_one():
    folder = Path(demo()["checkpoint"])
    assert not [name for name in FILES if not (folder / name).is_file()]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni"
    assert config["thinker_config"]["model_type"] == "qwen2_5_omni_thinker"
    assert "vision_start_token_id" in config["thinker_config"]
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert all(name.startswith("thinker.") for name in names)
    for name in (
        "thinker.model.layers.0.self_attn.q_proj.weight",
        "thinker.model.embed_tokens.weight",
        "thinker.visual.blocks.0.attn.proj.weight",
        "thinker.audio_tower.conv1.weight",
        "thinker.lm_head.weight",
    ):
        assert name in names


FLAT = {  # tensors of published folders: of the decoder and the vision tower, and what only one family has
    "qwen2_5_vl": ("chat_template.json",),
    "video_salmonn2_plus": (
        "audio.q_tokens",
        "audio.conv1.weight",
        "audio.layers.0.self_attn.q_proj.weight",
        "audio.qformer.bert.embeddings.LayerNorm.weight",
        "audio.qformer.bert.encoder.layer.0.crossattention.self.key.weight",
        "audio.qformer.bert.encoder.layer.1.output_query.dense.weight",
        "audio.audio_proj.bias",
    ),
}


@pytest.mark.parametrize("family", FLAT)
def test_the_other_families_have_flat_folders(family):
    from safetensors import safe_open

    folder = Path(demo(family)["checkpoint"])
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_vl" and config["num_hidden_layers"] == 8 and "text_config" not in config
    assert ("audio_config" in config) == (family == "video_salmonn2_plus")
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = {*file.keys(), *(path.name for path in folder.iterdir())}
    assert names >= {"model.layers.0.self_attn.q_proj.weight", "visual.blocks.0.attn.proj.weight", "lm_head.weight"}
    assert names >= set(FLAT[family]) and not [n for n in names if "language_model" in n or "audio.encoder" in n]
    assert (Path(folder) / "chat_template.json").is_file() == (family == "qwen2_5_vl")


def test_unknown_families_are_told(tmp_path):
    with pytest.raises(InputError, match="family 'qwen9': pass one of qwen2_5_omni, qwen2_5_vl, video_salmonn2_plus"):
        build(tmp_path, family="qwen9")


def test_transformers_loads_every_tensor():
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    loaded, report = Thinker.from_pretrained(demo()["checkpoint"], output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    text = loaded.config.text_config
    assert text.num_hidden_layers == 8 and text.head_dim == 32 if hasattr(text, "head_dim") else True


def test_a_thinker_alone_loads_too(tmp_path):
    import avflow

    model().hf.save_pretrained(tmp_path / "thinker")
    model().processor.tokenizer.save_pretrained(tmp_path / "thinker")
    for name in ("preprocessor_config.json", "chat_template.json", "video_preprocessor_config.json"):
        (tmp_path / "thinker" / name).write_bytes((Path(demo()["checkpoint"]) / name).read_bytes())
    alone = avflow.load(str(tmp_path / "thinker"))
    sample = Sample.read_jsonl(demo()["samples"])[0]
    inputs = alone.prepare(sample).model_inputs
    with torch.no_grad():
        assert torch.equal(alone.hf(**inputs).logits, model().hf(**model().prepare(sample).model_inputs).logits)


def test_making_again_keeps_what_is_there_and_mends_what_is_not(tmp_path):
    made = make(tmp_path, clips=1, seconds=1.0, size=Tiny(layers=2, hidden=64))
    files = [Path(made["checkpoint"]) / "model.safetensors", Path(made["samples"]), *map(Path, made["clips"])]
    first = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    assert make(tmp_path, clips=1, seconds=1.0, size=Tiny(layers=2, hidden=64)) == made
    assert all(file.stat().st_mtime_ns == first[file][0] for file in files)
    files[-1].unlink()
    files[0].write_bytes(b"half")
    make(tmp_path, clips=1, seconds=1.0, size=Tiny(layers=2, hidden=64))
    for file in files:  # seeded: the same bytes
        assert file.read_bytes() == first[file][1], file.name


def test_sizes_can_be_chosen(tmp_path):
    """Seven query heads to one key head, as in the 7B."""
    import avflow

    build(tmp_path, size=Tiny(layers=3, hidden=112, heads=7, kv_heads=1, intermediate=64))
    tiny = avflow.load(str(tmp_path))
    assert (tiny.n_layers, tiny.n_heads, tiny.n_kv_heads, tiny.head_dim) == (3, 7, 1, 16)
    prompt = tiny.prepare(Sample.read_jsonl(demo()["samples"])[0])
    with torch.no_grad():
        assert torch.isfinite(tiny.hf(**prompt.model_inputs).logits).all()


def test_attention_is_not_uniform_and_media_matter():
    """Otherwise a broken mask would go unnoticed."""
    samples = Sample.read_jsonl(demo()["samples"])
    one, other = (model().prepare(samples[i]) for i in (0, 2))
    hf = model().hf
    before = hf.config._attn_implementation
    with torch.no_grad():
        hf.set_attn_implementation({"text_config": "eager"})
        try:
            clean = hf(**one.model_inputs, output_attentions=True)
        finally:
            hf.set_attn_implementation({"text_config": before})
        share = torch.stack([a[0, :, -1].max(-1).values for a in clean.attentions])  # [layers, heads]
        assert share.median() > 5 / len(one)  # uniform would be 1 / N
        logp = clean.logits[0, -1].log_softmax(-1)
        for name in ("input_features", "pixel_values_videos"):
            mixed = hf(**{**one.model_inputs, name: other.model_inputs[name]}).logits[0, -1].log_softmax(-1)
            assert (mixed - logp).abs().max() > 0.05, name


def test_samples_are_answered_by_their_clips():
    samples = Sample.read_jsonl(demo()["samples"])
    assert [s.task for s in samples] == list(QUESTIONS)
    for sample in samples:
        video = read_video(sample.video)
        said = sample.options[sample.answer_index]
        if sample.task == "color":
            seen = video.frames[0].reshape(3, -1).T  # [pixels, 3]
            brightest = seen[seen.sum(1).argmax()].tolist()
            assert min(COLORS, key=lambda c: np.abs(np.subtract(COLORS[c], brightest)).sum()) == said
        if sample.task == "pitch":
            sound = read_audio(sample.video)
            loudest = np.abs(np.fft.rfft(sound)).argmax() * 16000 / len(sound)
            assert min(PITCHES, key=lambda p: abs(PITCHES[p] - loudest)) == said


def test_answers_are_spread_over_the_letters():
    clips = make_clips(24)
    samples = make_samples(clips, [Path(f"{c.name}.mp4") for c in clips])
    for task, (_, options) in QUESTIONS.items():
        letters = Counter(s.answer for s in samples if s.task == task)
        assert set(letters.values()) == {12 // len(options)}, (task, letters)
    assert len({s.id for s in samples}) == 48
    assert len({c.name for c in make_clips(72)}) == 72
    with pytest.raises(ValueError, match="1 to 72"):
        make_clips(73)


def test_a_clip_is_the_same_bytes_every_time(tmp_path):
    one, two = (write_clip(Clip(seconds=1), tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert one == two and one != write_clip(Clip(seconds=1, color="green"), tmp_path / "c.mp4").read_bytes()
