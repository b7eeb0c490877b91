"""Generating with video-SALMONN 2+: batches, caches, embeddings, beams, turns; and what forward refuses."""

from __future__ import annotations

import pytest
import tiny
import tiny_salmonn
import torch
from transformers import StaticCache

import avflow
from avflow.errors import InputError
from avflow.models.compat import cache_argument, cache_of, kept_state
from avflow.models.video_salmonn2_plus import rope_index

CACHE = cache_argument()

NEW = 6


@pytest.fixture(scope="module", params=["released", "trained"])
def hf(request):
    return tiny_salmonn.thinker(position_layout=request.param)


@pytest.fixture(scope="module")
def released():
    return tiny_salmonn.thinker()


def prompts() -> list[dict[str, torch.Tensor]]:
    """Of different lengths and media; the last has one tall picture, whose rows outgrow the text under "trained"."""
    made = [
        tiny_salmonn.av_prompt(seconds=3, seed=1),
        tiny_salmonn.av_prompt("silent", seconds=2, seed=2),
        tiny_salmonn.av_prompt("separate", seconds=12, seed=3, options=False),
        tiny_salmonn.av_prompt("sound", seconds=5, seed=4),
        tiny_salmonn.av_prompt(seconds=1, seed=5, cells=(60, 1)),
    ]
    return [prompt.model_inputs for prompt in made]


def batched(each: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Left-padded; media one after another."""
    width = max(p["input_ids"].shape[1] for p in each)
    out = {}
    for name in ("input_ids", "attention_mask"):
        rows = [torch.nn.functional.pad(p[name], (width - p[name].shape[1], 0)) for p in each]
        out[name] = torch.cat(rows)
    for name in ("pixel_values_videos", "video_grid_thw", "video_second_per_grid", "audio_features"):
        out[name] = torch.cat([p[name] for p in each if name in p])
    return out


def generate(hf, inputs, **more) -> torch.Tensor:
    """The new tokens [B, NEW]."""
    return hf.generate(**inputs, max_new_tokens=NEW, do_sample=False, **more)[:, -NEW:]


def naive(hf, inputs) -> torch.Tensor:
    """Greedy without generate: one whole forward per token, positions of new tokens by the layouts' definition."""
    ids = inputs["input_ids"]
    grids = {name: inputs.get(name) for name in ("video_grid_thw", "video_second_per_grid")}
    positions, _ = rope_index(ids, hf.config, **grids)
    released = hf.config.position_layout == "released"
    start = (positions.max() if released else positions[0, 0, -1]) + 1
    embeds = hf.embed(
        ids,
        **{k: v for k, v in inputs.items() if k in ("pixel_values_videos", "audio_features")}
        | {"video_grid_thw": inputs.get("video_grid_thw")},
    )
    new = []
    for step in range(NEW):
        new.append(hf(inputs_embeds=embeds, position_ids=positions, use_cache=False).logits[0, -1].argmax())
        embeds = torch.cat([embeds, hf.get_input_embeddings()(new[-1])[None, None]], 1)
        positions = torch.cat([positions, (start + step).expand(3, 1, 1)], 2)
    return torch.stack(new)[None]


@torch.no_grad()
def test_batch_equals_prompts_alone(hf):
    each = prompts()
    together = generate(hf, batched(each))
    logits = hf(**batched(each), logits_to_keep=1).logits
    for row, inputs in enumerate(each):
        alone = generate(hf, inputs)
        assert torch.equal(alone, naive(hf, inputs))
        assert torch.equal(together[row], alone[0])
        torch.testing.assert_close(logits[row], hf(**inputs, logits_to_keep=1).logits[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_caches(hf, cache):
    each = prompts()
    for inputs in (each[0], each[4], batched(each)):
        expected = generate(hf, inputs, use_cache=False)
        found = generate(hf, inputs, cache_implementation=cache, disable_compile=True)
        assert torch.equal(found, expected)


@torch.no_grad()
def test_decoding_compiles_whole(hf):
    """A step with a static cache and positions given is one graph."""
    inputs = prompts()[4]
    cache = StaticCache(config=hf.config.text_config, max_cache_len=128)
    out = hf(**inputs, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
    step = torch.compile(hf.forward, fullgraph=True, backend="eager")
    found = []
    for at in range(NEW):
        new = out.logits.argmax(-1)
        found.append(int(new))
        position = (inputs["input_ids"].shape[1] + at + hf.rope_deltas).expand(3, 1, 1)
        out = step(input_ids=new, position_ids=position, **{CACHE: cache}, use_cache=True)
    assert found == generate(hf, inputs)[0].tolist()


@torch.no_grad()
def test_forward_goes_on_from_a_cache(hf):
    """Token by token, positions left to the model, with a mask and without, alone and padded."""
    each = prompts()
    for inputs in (each[0], each[4], batched(each)):
        expected = generate(hf, inputs)
        out = hf(**inputs, use_cache=True)
        mask = inputs["attention_mask"]
        for step in range(NEW):
            new = out.logits[:, -1].argmax(-1, keepdim=True)
            assert torch.equal(new[:, 0], expected[:, step])
            mask = torch.cat([mask, torch.ones_like(new)], 1)
            given = {} if len(mask) == 1 and step % 2 else {"attention_mask": mask}
            out = hf(input_ids=new, **{CACHE: cache_of(out)}, use_cache=True, **given)


@torch.no_grad()
def test_embeddings_in_place_of_ids(hf):
    for inputs in (prompts()[0], prompts()[4]):
        grids = {name: inputs[name] for name in ("video_grid_thw", "video_second_per_grid")}
        positions, _ = rope_index(inputs["input_ids"], hf.config, **grids)
        embeds = hf.embed(
            inputs["input_ids"],
            pixel_values_videos=inputs["pixel_values_videos"],
            video_grid_thw=inputs["video_grid_thw"],
            audio_features=inputs["audio_features"],
        )
        given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"], "position_ids": positions}
        torch.testing.assert_close(hf(**given).logits, hf(**inputs).logits, rtol=0, atol=1e-5)
        assert torch.equal(generate(hf, given), generate(hf, inputs))
        both = given | {"input_ids": inputs["input_ids"]}  # ids for the repetition penalty
        assert torch.equal(generate(hf, both, repetition_penalty=1.3), generate(hf, inputs, repetition_penalty=1.3))


@torch.no_grad()
def test_embeddings_alone_stand_one_by_one(released):
    embeds = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(3, 2, -1)
    expected = released(inputs_embeds=embeds, position_ids=positions).logits
    generate(released, prompts()[0])  # leaves a rope delta behind
    assert torch.equal(released(inputs_embeds=embeds).logits, expected)
    assert torch.equal(generate(released, {"inputs_embeds": embeds})[:, 0], expected[:, -1].argmax(-1))


def test_beams_and_several_answers(released):
    """Media are repeated by prompt: a batch gives what its prompts give alone."""
    each = prompts()[:4]
    for more in ({"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}):
        count = more.get("num_return_sequences", 1)
        together = generate(released, batched(each), **more).view(4, count, NEW)
        for row, inputs in enumerate(each):
            assert torch.equal(together[row], generate(released, inputs, **more))


def test_second_turn(hf):
    """A cache of the first turn, then more text: what the whole prompt gives at once."""
    for inputs in (prompts()[0], prompts()[4]):
        first = hf.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        more = torch.randint(10, 400, (1, 5), generator=torch.Generator().manual_seed(0))
        ids = torch.cat([first.sequences, more], 1)
        whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        rest = {"input_ids": ids, "attention_mask": torch.ones_like(ids), CACHE: cache_of(first)}
        assert torch.equal(generate(hf, rest), generate(hf, whole))


@torch.no_grad()
def test_image(released):
    """An image beside a video with sound; images are read by the same tower."""
    inputs = prompts()[0]
    picture = torch.tensor([[tiny.VISION_BOS, *[tiny.IMAGE] * 6, tiny.VISION_EOS]])
    ids = torch.cat([inputs["input_ids"][:, :2], picture, inputs["input_ids"][:, 2:]], 1)
    pixels = torch.randn(24, 1176, generator=torch.Generator().manual_seed(2))
    given = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    given["image_grid_thw"] = torch.tensor([[1, 4, 6]])
    embeds = released.embed(
        ids,
        *(
            given[k]
            for k in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "audio_features")
        ),
    )
    features = released.get_visual_features(pixels, given["image_grid_thw"])
    assert torch.equal(embeds[0, 3:9], features)
    assert torch.equal(
        embeds[0, 10:],
        released.embed(
            inputs["input_ids"],
            pixel_values_videos=inputs["pixel_values_videos"],
            video_grid_thw=inputs["video_grid_thw"],
            audio_features=inputs["audio_features"],
        )[0, 2:],
    )
    assert released(**given).logits.isfinite().all()
    positions, _ = rope_index(ids, released.config, given["image_grid_thw"], given["video_grid_thw"])
    assert positions[:, 0, 3:10].tolist() == [[3] * 6 + [6], [3, 3, 3, 4, 4, 4, 6], [3, 4, 5, 3, 4, 5, 6]]


def test_loss_reaches_every_part(released):
    hf = tiny_salmonn.thinker(layers=1)
    inputs = prompts()[0]
    hf(**inputs, labels=inputs["input_ids"]).loss.backward()
    for part in (hf.visual, hf.audio, hf.model):
        assert any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    assert bool(hf.audio.q_tokens.grad.any())


def test_state_of_the_last_prefill_survives_a_sweep():
    model = avflow.wrap(tiny_salmonn.thinker(layers=2))
    model.hf.generate(**prompts()[4], max_new_tokens=1)
    delta = model.hf.rope_deltas
    avflow.sweep(model, tiny_salmonn.av_prompt(), knockouts=["video->question"], window=1, select="all")
    assert model.hf.rope_deltas is delta
    with kept_state(model.hf), torch.no_grad():
        model.hf(**prompts()[0])
        assert model.hf.rope_deltas is not delta
    assert model.hf.rope_deltas is delta


def without(inputs: dict, *names: str) -> dict:
    return {name: value for name, value in inputs.items() if name not in names}


@torch.no_grad()
def test_what_is_refused(released):
    inputs = prompts()[0]
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        released(attention_mask=inputs["attention_mask"])
    with pytest.raises(InputError, match="hold 20 audio tokens, but no audio"):
        released(**without(inputs, "audio_features"))
    with pytest.raises(InputError, match="hold 18 video tokens, but no video"):
        released(**without(inputs, "pixel_values_videos"))
    with pytest.raises(InputError, match="20 audio tokens, the audios given 40"):
        released(**inputs | {"audio_features": inputs["audio_features"].repeat(2, 1, 1)})
    with pytest.raises(InputError, match=r"audio_features \(1, 128, 77\)"):
        released(**inputs | {"audio_features": inputs["audio_features"][..., :77]})
    with pytest.raises(InputError, match="video_grid_thw has 0 rows"):
        released(**without(inputs, "video_grid_thw"))
    out = released(**inputs, use_cache=True)
    with pytest.raises(InputError, match="media after a cache"):
        released(**without(inputs, "attention_mask"), **{CACHE: cache_of(out)})
    late = inputs | {"input_ids": inputs["input_ids"].repeat(1, 2), CACHE: cache_of(out)}
    late["attention_mask"] = torch.ones_like(late["input_ids"])
    with pytest.raises(InputError, match="media after a cache"):
        generate(released, late)
