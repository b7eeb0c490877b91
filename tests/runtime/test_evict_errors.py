"""What evict refuses, and that a refusal leaves model and cache as they were."""

from __future__ import annotations

import pytest
import tiny
import torch
from evict_cases import Case, evicting, far, generate, lengths, model, prompt
from transformers import DynamicCache, StaticCache

import avflow
from avflow import EvictionSchedule, Step, TopK
from avflow.models.compat import cache_argument, cache_of

CACHE = cache_argument()


def traces(name: str) -> tuple:
    hf = model(name).hf
    return (
        [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in hf.modules()],
        [sorted(m.__dict__) for m in hf.modules()],
        model(name).text_model.config._attn_implementation,
        model(name).tracker,
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize(
    "schedule, decode, message",
    [
        ({"video": 3}, "keep", "leaves after layer 3: the model has layers 0 .. 3"),
        ({"vidoe": 1}, "keep", "no group or alias is called 'vidoe'"),
        ({"answer": 1}, "keep", "'answer', which must stay"),
        ({"video": 1}, "forget", "decode = 'forget': pass one of keep, drop"),
        (EvictionSchedule.preset("omni_3b_av_video"), "keep", "made for a model with layers 36, this one has 4"),
    ],
)
def test_at_the_door(schedule, decode, message):
    before = traces("omni")
    with pytest.raises(avflow.InputError, match=message):
        with avflow.evict(model("omni"), schedule, decode):
            pass
    assert traces("omni") == before


def test_blocks():
    case = prompt("qwen3")
    before = traces("qwen3")
    with evicting("qwen3", case):
        with pytest.raises(avflow.InputError, match="within avflow.evict: put all steps into one schedule"):
            with evicting("qwen3", case):
                pass
        with pytest.raises(avflow.InputError, match="differ from those of the block around"):
            with avflow.knockout(model("qwen3"), "video->last", groups=["system"] * case.n):
                pass
        with avflow.knockout(model("qwen3"), "video->last", layers=[1, 2]):
            with pytest.raises(avflow.InputError, match="layer 2 has knockouts with semantics 'renormalize' already"):
                with avflow.knockout(model("qwen3"), "video->last", layers=[2], semantics="zero"):
                    pass
        generate("qwen3", case)
    assert traces("qwen3")[2:] == before[2:] and traces("qwen3")[0] == before[0]


def test_a_sliding_window_is_refused():
    import tiny

    hf = tiny.decoder("mistral")
    hf.config.layer_types = ["sliding_attention"] * 4
    with pytest.raises(avflow.UnsupportedModelError, match="uses sliding_attention"):
        with avflow.evict(avflow.wrap(hf), {"video": 1}):
            pass


@pytest.mark.parametrize("name", ["omni", "qwen3"])
def test_the_model_is_as_before_also_after_an_exception(name):
    case = prompt(name)
    with torch.no_grad():
        clean = model(name).hf(**case.inputs).logits
    before = traces(name)
    with pytest.raises(KeyError, match="on purpose"):
        with evicting(name, case):
            model(name).hf(**case.inputs)
            assert not torch.is_grad_enabled()
            raise KeyError("on purpose")
    assert traces(name) == before
    with torch.no_grad():
        assert torch.equal(model(name).hf(**case.inputs).logits, clean)


REFUSED = {
    "absent group": ({"image": 1}, "keep", {}, "drops 'image' after layer 1, but the prompt has no such token"),
    "labels": ({"video": 1}, "keep", {"labels": "ids"}, "labels= within avflow.evict"),
    "4-D mask": ({"video": 1}, "keep", {"attention_mask": "4d"}, "attention_mask has shape"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_in_a_forward(why):
    schedule, decode, more, message = REFUSED[why]
    case = prompt("qwen3")
    n, ids = case.n, case.inputs["input_ids"]
    values = {"ids": ids, "4d": torch.ones(1, 1, n, n, dtype=torch.bool).tril()}
    cache = DynamicCache()
    with evicting("qwen3", case, schedule, decode), pytest.raises(avflow.InputError, match=message):
        model("qwen3").hf(**(case.inputs | {k: values[v] for k, v in more.items()}), **{CACHE: cache})
    assert cache.get_seq_length() == 0 and not [k for k in cache.__dict__ if "avflow" in k]


@pytest.mark.parametrize("schedule", [{"video": 1}, [Step("video", 1, TopK(count=1))]])
@pytest.mark.parametrize("groups", [["video"] * 10, ["system"] * 9 + ["video"]])
def test_the_prompts_end_must_stay(groups, schedule):
    ids = torch.arange(10, 20)[None]
    case = Case({"input_ids": ids}, [groups], [[-1] * 10])
    rest = (
        "nothing remains" if "system" not in groups and isinstance(schedule, dict) else "no answer could be predicted"
    )
    if not isinstance(schedule, dict) and "system" in groups:
        schedule = [Step("video", 1), *schedule]
    for call in (lambda: generate("qwen3", case), lambda: model("qwen3").hf(ids)):
        with evicting("qwen3", case, schedule), pytest.raises(avflow.InputError, match=f"'video'.*{rest}"):
            call()


def test_caches_of_another_origin():
    case = prompt("qwen3")
    hf, step = model("qwen3").hf, torch.tensor([[5]])
    with torch.no_grad():
        clean = cache_of(hf(**case.inputs))
    with avflow.knockout(model("qwen3"), "video->last", groups=case.groups):
        cut = cache_of(hf(**case.inputs))
    with evicting("qwen3", case, {"video": 2}):
        other = cache_of(hf(**case.inputs))
    for cache, message in [
        (clean, "holds 40 tokens, of which 0 are labelled"),
        (cut, "filled without eviction"),
        (other, "with the schedule video after 2"),
    ]:
        held = lengths(cache)
        with evicting("qwen3", case), pytest.raises(avflow.InputError, match=message):
            hf(step, **{CACHE: cache})
        assert lengths(cache) == held
    with avflow.knockout(model("qwen3"), "video->last", groups=case.groups):
        with pytest.raises(avflow.InputError, match="with the schedule video after 2"):
            hf(step, **{CACHE: other})
    with torch.no_grad():
        assert (
            far(
                hf(step, **{CACHE: clean}).logits[:, -1],
                hf(torch.cat([case.inputs["input_ids"], step], 1)).logits[:, -1],
            )
            < 1e-4
        )


def test_drop_wants_a_cache_whose_memory_it_can_free():
    case = prompt("qwen3")
    cache = StaticCache(config=model("qwen3").config, max_cache_len=64)
    with evicting("qwen3", case, decode="drop"):
        with pytest.raises(avflow.InputError, match="frees nothing in a StaticLayer"):
            generate("qwen3", case, **{CACHE: cache})
        with pytest.raises(avflow.InputError, match="with assisted or prompt-lookup decoding"):
            ids = case.inputs["input_ids"].clone()
            ids[:, -2:] = ids[:, :2]  # the prompt's end has been there before: a guess comes along with it
            generate("qwen3", Case({"input_ids": ids}, case.groups, case.items), prompt_lookup_num_tokens=3)
    assert cache.get_seq_length() == 0


def test_scores_need_the_prompts_end():
    case = prompt("qwen3")
    ids = case.inputs["input_ids"]
    with evicting("qwen3", case, [Step("video", 1, TopK(count=2))]):
        with pytest.raises(avflow.InputError, match="read the prompt in one forward"):
            model("qwen3").hf(ids[:, :20])
    names = [g.replace("question_text", "system").replace("option_", "candidate_") for g in case.groups[0]]
    bare = Case({"input_ids": ids}, [names], case.items)
    with evicting("qwen3", bare, [Step("video", 1, TopK(count=2, by="question"))]):
        with pytest.raises(avflow.InputError, match="no token of 'question'"):
            model("qwen3").hf(ids)


def test_a_policy_that_returns_nonsense():
    class Odd:
        uses_scores = False

        def select(self, view):
            return view.items

    case = prompt("qwen3")
    with evicting("qwen3", case, [Step("video", 1, Odd())]), pytest.raises(avflow.InputError, match="return bool"):
        generate("qwen3", case)


def test_layers_that_share_keys_cannot_lose_tokens_between_them():
    """A layer that reads the cache of an earlier one gets more keys than are left in it."""
    hf = tiny.decoder("qwen3")
    later = hf.model.layers[3].self_attn
    before = later.forward

    def forward(*args, **kwargs):
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        own = cache.update
        cache.update = lambda k, v, layer, *more, **named: (cache.layers[1].keys, cache.layers[1].values)
        try:
            return before(*args, **kwargs)
        finally:
            cache.update = own

    later.forward = forward
    case = tiny.text_prompt(64)
    model = avflow.wrap(hf)
    with avflow.evict(model, {"video": 2}, groups=case.groups):
        with pytest.raises(avflow.InputError, match="layer 3 runs .* whose layers share keys"):
            hf(input_ids=case.input_ids[None])


def test_a_policy_that_asks_for_scores_though_it_says_it_does_not():
    class Forgetful:
        uses_scores = False

        def select(self, view):
            return view.scores("last") > 0

    case = prompt("qwen3")
    with evicting("qwen3", case, [Step("video", 1, Forgetful())]):
        with pytest.raises(avflow.InputError, match="asks for scores, which its uses_scores = False rules out"):
            generate("qwen3", case)
