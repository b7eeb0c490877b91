"""Recipes of papers: the tokens that stay are those of the published rule; the run is that of the matching knockout."""

from __future__ import annotations

import published_policies as published
import pytest
import torch
from evict_cases import NEVER, Case, batch, check, cuts_of, dense, evicting, generate, model, prompt
from oracle import dense as dense_oracle

import avflow
from avflow.eviction import recipes
from avflow.models.compat import cache_of
from avflow.runtime.conversation import conversation_of
from avflow.synthetic import make_items, write_items

RECIPES = {
    "fastv": (recipes.fastv(2, 0.5), lambda hf, case: published.fastv(hf, case, 2, 0.5, "video")),
    "fastv, other": (recipes.fastv(1, 0.7, "video+audio"), lambda hf, case: published.fastv(hf, case, 1, 0.7, "media")),
    "pyramiddrop": (
        recipes.pyramiddrop((1, 2, 3), (0.7, 0.45, 0.13)),
        lambda hf, case: published.pyramiddrop(hf, case, (1, 2, 3), (0.7, 0.45, 0.13), "video"),
    ),
    "vtw": (recipes.vtw(2), lambda hf, case: published.vtw(hf, case, 2, "video")),
}


def left(output) -> torch.Tensor:
    """The last layer that each of the prompt's tokens reached."""
    gone = torch.from_numpy(conversation_of(cache_of(output)).gone).long()
    return gone.clamp(max=NEVER)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["omni", "vl", "qwen2", "qwen3"])
@pytest.mark.parametrize("sequences", [1, 2])
def test_recipe(recipe, name, sequences):
    case = prompt(name, 1, 3) if sequences == 1 else batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    schedule, rule = RECIPES[recipe]
    gone = rule(model(name).hf, case)
    with evicting(name, case, schedule):
        ours = generate(name, case)
    assert left(ours).tolist() == gone.tolist()
    with dense(name, cuts_of(gone, 8)):
        theirs = generate(name, case)
    check(ours, theirs, generate(name, case))


TRAINED = {
    "fastv": (recipes.fastv(), lambda hf, case: published.fastv(hf, case, 2, 0.5, "video")),
    "fastv, media": (recipes.fastv(3, 0.75, "media"), lambda hf, case: published.fastv(hf, case, 3, 0.75, "media")),
    "pyramiddrop": (
        recipes.pyramiddrop((3, 6, 9)),
        lambda hf, case: published.pyramiddrop(hf, case, (3, 6, 9), (0.5, 0.25, 0.125), "video"),
    ),
    "vtw": (recipes.vtw(8, "media"), lambda hf, case: published.vtw(hf, case, 8, "media")),
    "evs": (recipes.evs(0.7), lambda hf, case: published.evs(hf, case, 0.7)),
}


@pytest.mark.parametrize("q", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["omni", "salmonn", "vl"])
@pytest.mark.parametrize("sequences", [1, 2])
def test_efficient_video_sampling(name, sequences, q):
    case = prompt(name, 1, 4) if sequences == 1 else batch([prompt(name, 1, 2), prompt(name, 2, 4)])
    gone = published.evs(model(name).hf, case, q)
    with evicting(name, case, recipes.evs(q)):
        ours = generate(name, case)
    assert left(ours).tolist() == gone.tolist()
    assert (gone == -1).any()
    with dense(name, cuts_of(gone, 8)):
        theirs = generate(name, case)
    check(ours, theirs, generate(name, case))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    omni = avflow.load("tiny-omni")
    file = write_items(make_items("heldout", 2, seed=7), tmp_path_factory.mktemp("clips"))
    return omni, [omni.prepare(sample) for sample in avflow.Sample.read_jsonl(file)]


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_trained_model(clips, recipe):
    omni, prompts = clips
    schedule, rule = TRAINED[recipe]
    for one in prompts:
        inputs = {"attention_mask": torch.ones_like(one.input_ids)[None], **one.model_inputs}
        case = Case(inputs, [list(one.groups)], [list(one.items)])
        gone = rule(omni.hf, case)
        with avflow.evict(omni, schedule, groups=one), torch.no_grad():
            ours = omni.hf(**one.model_inputs, use_cache=True)
        assert left(ours).tolist() == gone.tolist()
        cuts = cuts_of(gone, 0, layers=omni.n_layers)
        with dense_oracle(omni.hf, cuts), torch.no_grad():
            theirs = omni.hf(**inputs).logits
        assert (ours.logits[0, -1] - theirs[0, -1]).abs().max() < 1e-4 * theirs.abs().max()


def test_the_published_layer_is_not_the_next(clips):
    """K = 2 is two layers that see all; by the attention of the layer after that other tokens would stay."""
    omni, prompts = clips
    kept = []
    for k in (2, 3):
        with avflow.evict(omni, recipes.fastv(k), groups=prompts[0]), torch.no_grad():
            gone = left(omni.hf(**prompts[0].model_inputs, use_cache=True))
        assert gone.min() == k - 1
        kept.append((gone == NEVER).tolist())
    assert kept[0] != kept[1]
