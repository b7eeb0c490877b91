"""Features of deep vision layers, which the decoder adds after its first layers: exact in every entry point.

Against forwards of the same transformers model with dense masks, whose own code adds them.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from contextlib import contextmanager

import evict_cases
import oracle
import patch_oracle
import pytest
import rest_oracle
import tiny
import tiny_deep
import torch
from transformers import DynamicCache

import avflow
from avflow import Step
from avflow.errors import UnsupportedModelError
from avflow.experiments.sweep import SweepRequest, sweep_prompts
from avflow.knockouts.presets import as_knockouts
from avflow.models import Family, Model
from avflow.models.compat import attention_name, cache_argument, cache_of
from avflow.models.proof import figures
from avflow.walk.capture import capture
from avflow.walk.memory import fixed_bytes
from avflow.walk.patched import alike

NEAR = dict(abs=1e-4)
CACHE = cache_argument()


@pytest.fixture(scope="module")
def model():
    return evict_cases.model("deepstack")


@pytest.fixture(scope="module")
def prompt():
    return tiny_deep.prompt()


@torch.no_grad()
def eager(model, prompt):
    """attentions [layers, heads, n, n]; what comes before each layer and before the last norm [layers + 1, n, D]."""
    seen = []
    modules = [*model.layers, model.norm]
    hooks = [m.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0])) for m in modules]
    try:
        with attention_name(model.text_model, "eager"):
            attentions = model.hf(**prompt.model_inputs, use_cache=False, output_attentions=True).attentions
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(attentions)[:, 0], torch.stack(seen)


def test_knockouts(model, prompt):
    """The features matter, a clean walk has them, and knockouts of one prompt equal the model's own with masks."""
    cuts = as_knockouts(["image->question", "video->last", "cross:video"])
    rows = avflow.sweep(model, prompt, cuts, window=1, select="all").table.to_pylist()
    assert oracle.check_rows(model.hf, prompt, cuts, rows, 1) > 1e-2
    clean = oracle.answer_logp(model.hf, prompt)[0]
    with without_features(model):
        assert abs(oracle.answer_logp(model.hf, prompt)[0] - clean) > 0.1
    assert figures(model)["difference"] < 1e-3


@contextmanager
def without_features(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.text_model), "_deepstack_process", lambda self, hidden, places, features: hidden)
        yield


def test_prompts_in_one_pack_have_each_its_own(model):
    prompts = [tiny_deep.prompt(frames, frames, id=str(frames)) for frames in (1, 3, 2)]
    bare = dataclasses.replace(_text(), id="text")
    cuts = as_knockouts(["video->question", "image->last"])
    request = SweepRequest(knockouts=cuts, window=2, select="all")
    found = sweep_prompts(model, [prompts[0], bare, *prompts[1:]], request)
    for prompt, rows in zip(prompts, [found[0], *found[2:]], strict=True):
        assert oracle.check_rows(model.hf, prompt, cuts, rows.rows, 2) > 1e-2


def _text() -> avflow.Prompt:
    """Without a picture."""
    return tiny.text_prompt(400, tokens=20)


def test_several_answer_tokens_and_a_split_walk(model):
    prompt = tiny_deep.prompt(answer_ids=(7, 11, 3))
    cuts = as_knockouts("video->question")
    for memory in (None, "1MB"):
        rows = avflow.sweep(model, prompt, cuts, window=1, select="all", memory=memory).table.to_pylist()
        with longer_types(prompt) as given:
            assert oracle.check_rows(model.hf, given, cuts, rows, 1) > 1e-2


@contextmanager
def longer_types(prompt):
    """With the answer's tokens, which are text, among what kind of medium each token is."""
    types = prompt.model_inputs["mm_token_type_ids"]
    more = types.new_zeros(1, len(prompt.answer_ids) - 1)
    yield dataclasses.replace(
        prompt, model_inputs=prompt.model_inputs | {"mm_token_type_ids": torch.cat([types, more], 1)}
    )


def test_generated_text(model, prompt):
    layers, name = [0, 2], "video->question"
    found = avflow.sweep_text(model, prompt, name, window=1, layers=layers, max_new_tokens=5).table.to_pylist()
    groups, items = [*prompt.groups, *["answer"] * 6], [*prompt.items, *[-1] * 6]
    cut = oracle.cut_edges(as_knockouts(name)[0], groups, items, 4)[None]
    with oracle.dense(model.hf, {}):
        assert found[0]["text_clean"] == model.text(_generated(model, prompt))
    for row, layer in zip(found, layers, strict=True):
        with oracle.dense(model.hf, {layer: cut}):
            assert row["text_knockout"] == model.text(_generated(model, prompt))


@torch.no_grad()
def _generated(model, prompt):
    return model.hf.generate(**prompt.model_inputs, max_new_tokens=5, do_sample=False)[0, len(prompt) :].tolist()


def test_looks(model, prompt):
    """Shares, maps, sinks, and the lens through norm and head: of rows that have the features."""
    attention, hidden = eager(model, prompt)
    n, last = len(prompt), len(prompt) - 1
    for row in avflow.attention_share(model, prompt).table.to_pylist():
        mine = torch.tensor([group == row["group"] for group in prompt.groups])
        assert row["share"] == pytest.approx(attention[row["layer"], :, last, mine].sum(-1).mean().item(), abs=1e-5)
    found = avflow.attention_map(model, prompt, bins=n)
    assert (torch.as_tensor(found.weight)[:, :n, :n] - attention.mean(1)).abs().max() < 1e-4
    for row in avflow.answer_lens(model, prompt).table.to_pylist():
        logp = model.lm_head(model.norm(hidden[row["layer"] + 1, last])).log_softmax(-1)[row["token_id"]]
        assert row["logp"] == pytest.approx(logp.item(), **NEAR)
    image = torch.tensor([group == "image" for group in prompt.groups])
    words = Counter(model.lm_head(model.norm(hidden[2, image])).argmax(-1).tolist())
    rows = avflow.token_lens(model, prompt, "image", layers=[1]).table.to_pylist()
    assert {row["token_id"]: row["count"] for row in rows} == words
    avflow.sinks(model, prompt, layers=[1], times=1.01)


def test_pathways(model, prompt):
    """Every path but the video's to the question: as the knockout of these edges in all layers."""
    names = "image+video+question->template image->video+question+last video->last question->last"
    keep = dict.fromkeys([*names.split(), "question_text->options", "options->options", "cross:video", "cross:image"])
    row = next(r for r in avflow.pathways(model, prompt, keep, random=0).table.to_pylist() if r["run"] == "pathways")
    logp, _ = oracle.answer_logp(model.hf, prompt, as_knockouts("video->question")[0], range(4))
    assert math.log(row["p"]) == pytest.approx(logp, **NEAR)


@contextmanager
def residual_before_the_next(patch):
    """Residual states are what the next layer is given: with what the decoder adds behind the layer itself."""

    def places(hf):
        text = patch_oracle.find_text_model(hf)
        return {"residual": [(module, True) for module in [*text.layers[1:], text.norm]]}

    patch.setattr(patch_oracle, "_places", places)
    yield


def test_patching(model, prompt, monkeypatch):
    other = tiny_deep.prompt(seed=9)
    groups = ["image", "video", "question", "last"]
    rows = avflow.patch(model, prompt, avflow.PatchSource.of(other), groups, window=1, select="all").table.to_pylist()
    with residual_before_the_next(monkeypatch):
        given = patch_oracle.states(model.hf, other, "residual")
        for row in rows:
            at = patch_oracle.tokens(prompt, row["site"])
            logp, top = patch_oracle.patched(
                model.hf, prompt, "residual", [row["layer"]], at, lambda layer, seen, at=at: given[layer][at]
            )
            assert (row["logp_patched"], row["top_patched"]) == (pytest.approx(logp, **NEAR), str(top)), row


def test_runs_that_differ_in_the_features_alone_share_no_row(model, prompt):
    one, two = capture(model, prompt), capture(model, prompt)
    image, video = prompt.groups.index("image"), prompt.groups.index("video")
    assert alike(one, two) == len(prompt) - 1
    two.deep.features[2, tiny_deep.CELLS] += 1
    assert alike(one, two) == video
    assert alike(one, dataclasses.replace(two, deep=None)) == image
    short = dataclasses.replace(one.deep, tokens=one.deep.tokens[:9], features=one.deep.features[:, :9])
    assert alike(one, dataclasses.replace(one, deep=short)) == int(one.deep.tokens[9])


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_evict_within_the_stack(decode, layer):
    """Rows leave after a layer behind which features are still added, in a batch with padding too."""
    for case in (
        evict_cases.prompt("deepstack"),
        evict_cases.batch([evict_cases.prompt("deepstack", 1, 1), evict_cases.prompt("deepstack", 2, 3)]),
    ):
        steps = {"video": layer, "image": 2}
        with evict_cases.evicting("deepstack", case, steps, decode):
            ours = evict_cases.generate("deepstack", case, max_new_tokens=3)
        ends = [case.n] if decode == "drop" else None
        with evict_cases.dense("deepstack", evict_cases.cuts_of(evict_cases.leaves(case.groups, steps), 8, ends)):
            theirs = evict_cases.generate("deepstack", case, max_new_tokens=3)
        evict_cases.check(ours, theirs, evict_cases.generate("deepstack", case, max_new_tokens=3))


def test_policies_and_rest_within_the_stack(model, monkeypatch):
    """Some of a group's rows go on; rows that rest get nothing meanwhile."""
    case = evict_cases.prompt("deepstack", 1, 4)
    given = [Step("video", 0, avflow.EveryNth(2), until=2), Step("image", 1, avflow.TopK(share=0.5))]
    fate = rest_oracle.fate_of("deepstack", case, given[:1])
    with evict_cases.evicting("deepstack", case, given[:1]):
        ours = model.hf(**case.inputs)
    process, count = model.text_model._deepstack_process, iter(range(3))

    def added(hidden, places, features):
        return torch.where(fate.resting(next(count))[..., None], hidden, process(hidden, places, features))

    with rest_oracle.resting("deepstack", fate, 0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.text_model, "_deepstack_process", added)
        theirs = model.hf(**case.inputs)
    assert evict_cases.far(ours.logits, theirs.logits) < 1e-4
    with evict_cases.evicting("deepstack", case, given):
        assert evict_cases.lengths(cache_of(model.hf(**case.inputs)))[3] == case.n - tiny_deep.CELLS // 2


@pytest.mark.parametrize("how", [dict(num_beams=2), dict(cache_implementation="static")])
def test_ways_to_generate(how):
    case = evict_cases.prompt("deepstack")
    with evict_cases.evicting("deepstack", case, {"video": 1}):
        ours = evict_cases.generate("deepstack", case, max_new_tokens=3, **how)
    with evict_cases.dense("deepstack", evict_cases.cuts_of(evict_cases.leaves(case.groups, {"video": 1}), 8)):
        theirs = evict_cases.generate(
            "deepstack", case, max_new_tokens=3, **({} if "cache_implementation" in how else how)
        )
    evict_cases.check(ours, theirs)


@pytest.mark.parametrize("layer", [0, 1])
def test_pictures_of_a_second_turn(model, layer):
    """They are read on what a cache holds, of which some has left: rows count on from there."""
    one, two = evict_cases.prompt("deepstack", 1, 1), evict_cases.prompt("deepstack", 2, 2)
    whole = evict_cases.Case({}, [one.groups[0] + two.groups[0]], [one.items[0] + two.items[0]])
    steps = {"video": layer, "image": 2}
    second = {name: value for name, value in two.inputs.items() if name != "attention_mask"}
    second["position_ids"] = torch.arange(one.n, one.n + two.n).expand(3, 1, -1)  # the model has none for such a turn

    def read():
        cache = DynamicCache()
        with torch.no_grad():
            model.hf(**one.inputs, **{CACHE: cache})
            return model.hf(**second, **{CACHE: cache}).logits

    with avflow.evict(model, steps, groups=whole.groups, items=whole.items):
        ours = read()
    gone = evict_cases.leaves(whole.groups, steps)
    with evict_cases.dense("deepstack", evict_cases.cuts_of(gone, 0)):
        theirs = read()[:, gone[0, one.n :] == evict_cases.NEVER]
    assert evict_cases.far(ours, theirs) < 1e-4


def test_knockout_in_the_models_own_forward(model, prompt):
    cut = as_knockouts("video->question")[0]
    mask = oracle.cut_edges(cut, prompt.groups, prompt.items, 4)[None]
    with avflow.knockout(model, "video->question", layers=[1, 2], groups=prompt.groups, items=prompt.items):
        ours = model.hf(**prompt.model_inputs).logits
    with oracle.dense(model.hf, {1: mask, 2: mask}), torch.no_grad():
        assert evict_cases.far(ours, model.hf(**prompt.model_inputs).logits) < 1e-4


def test_a_plan_is_what_eviction_gives(model):
    prompt = tiny_deep.prompt()
    with torch.no_grad():
        own = model.hf(**prompt.model_inputs).logits[0, -1].log_softmax(-1)
    prompt = dataclasses.replace(prompt, answer_ids=[int(own.argmax())])
    with pytest.warns(avflow.errors.AvflowWarning, match="judged on the 1 prompts"):
        plan = avflow.plan_eviction(model, prompt, ["image", "video"], layers=[1, 2], max_accuracy_drop=0.9)
    assert plan.figures["accuracy_clean"] == 1.0
    for row in plan.table.to_pylist():
        if "+" in row["group"]:
            continue
        steps = {row["group"]: row["layer"]}
        case = evict_cases.Case(prompt.model_inputs, [prompt.groups], [prompt.items])
        with evict_cases.dense("deepstack", evict_cases.cuts_of(evict_cases.leaves(case.groups, steps), 0)):
            logp = model.hf(**prompt.model_inputs).logits[0, -1].log_softmax(-1)[prompt.answer_ids[0]]
        assert math.log(row["p"]) == pytest.approx(logp.item(), **NEAR)


def test_the_features_are_counted_as_memory(model):
    whole = fixed_bytes(model, 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.hf.config.vision_config, "deepstack_visual_indexes", [])
        assert whole - fixed_bytes(model, 100) == 3 * 100 * 64 * 4  # layers, tokens, width, float32


def test_features_that_are_added_in_another_way_are_refused(prompt):
    """A decoder that is given them, and has not the method by which they are known here."""
    hf = tiny_deep.thinker()
    text = hf.model.language_model
    text.__class__ = type("OtherText", (type(text),), {"__getattribute__": _hides_the_method})
    refused = pytest.raises(UnsupportedModelError, match="is given visual_pos_masks")
    other = Model(hf, Family())
    with refused:
        avflow.sweep(other, prompt, "image->question", window=1, select="all")
    with avflow.evict(other, {"image": 0}, groups=prompt.groups), refused:
        hf(**prompt.model_inputs)


def _hides_the_method(self, name):
    if name == "_deepstack_process":
        raise AttributeError(name)
    return torch.nn.Module.__getattribute__(self, name)
