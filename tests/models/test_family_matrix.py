"""Every model family in every entry point, on real media files, against the same transformers model under dense masks.

What a family needs for this is a module of tests/helpers/tiny_families.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import oracle
import pathway_oracle
import pytest
import tiny_families
import torch
from evict_cases import NEVER, cuts_of, far, leaves

import avflow
from avflow.knockouts.presets import as_knockouts
from avflow.models.compat import find_text_model, kept_state
from avflow.models.inputs import forward_inputs
from avflow.walk.capture import capture
from avflow.walk.layers import arguments_of

NEW = 4  # generated tokens


@dataclass
class Case:
    """A family's model, and one prompt that it prepared."""

    name: str
    folder: object
    model: avflow.Model
    prompt: avflow.Prompt

    @cached_property
    def bare(self) -> avflow.Model:
        """Without a tokenizer, so that tables show ids, as the oracle does."""
        return avflow.wrap(self.model.hf)

    @property
    def hf(self):
        return self.model.hf

    @property
    def media(self) -> list[str]:
        return [group for group in ("video", "audio", "image") if group in self.prompt.groups]

    @cached_property
    def clean(self) -> tuple[dict[int, torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Of one eager run: attention [1, H, N, N] by layer, hidden states [N, D] after each layer, logits [N, V]."""
        saved, hidden = {}, []
        hooks = [
            layer.register_forward_hook(lambda _m, _a, out: hidden.append(out if torch.is_tensor(out) else out[0]))
            for layer in self.model.layers
        ]
        try:
            with kept_state(self.hf), torch.no_grad(), oracle.dense(self.hf, {}, saved=saved):
                logits = self.hf(**forward_inputs(self.model, self.prompt), use_cache=False).logits[0]
        finally:
            for hook in hooks:
                hook.remove()
        return saved, [one.reshape(-1, one.shape[-1]) for one in hidden], logits

    def generate(self, **how):
        more = dict(max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True)
        with kept_state(self.hf), torch.no_grad():
            return self.hf.generate(**forward_inputs(self.model, self.prompt), **(more | how))


@pytest.fixture(scope="module", params=tiny_families.names())
def cases(request, tmp_path_factory) -> list[Case]:
    found = tiny_families.family(request.param)
    for package in getattr(found, "NEEDS", ()):
        pytest.importorskip(package)
    folder = found.build(tmp_path_factory.mktemp(request.param))
    model = avflow.load(folder)
    model.hf.generation_config.eos_token_id = None  # nothing ends early
    media = tmp_path_factory.mktemp("media")
    prompts = [model.prepare(sample, **getattr(found, "OPTIONS", {})) for sample in found.samples(media)]
    return [Case(request.param, folder, model, prompt) for prompt in prompts]


def test_its_prompts_are_those_of_transformers_own_processor(cases):
    """Ids, media, and the positions that the decoder is given."""
    published = tiny_families.family(cases[0].name).published
    if published is None:
        pytest.skip("transformers has no processor of this family")
    pytest.importorskip("torchvision")
    for case in cases:
        theirs, ours = dict(published(case.folder, case.prompt)), dict(case.prompt.model_inputs)
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
        for name in set(ours) & set(theirs):
            if isinstance(ours[name], torch.Tensor) and ours[name].is_floating_point():
                torch.testing.assert_close(ours[name], theirs[name][..., : ours[name].shape[-1]], atol=1e-5, rtol=0)
        given = [_positions(case, inputs) for inputs in (ours, theirs)]
        assert torch.equal(*given)


def _positions(case: Case, inputs) -> torch.Tensor:
    """What the model's own forward gives its decoder; a decoder that counts for itself is given none."""
    decoder = find_text_model(case.hf)
    with kept_state(case.hf), torch.no_grad():
        _, seen = arguments_of(decoder, lambda: case.hf(**inputs, use_cache=False))
    found = seen.get("position_ids")
    return torch.zeros(0) if found is None else found


def test_labels_fit_the_media(cases):
    for case in cases:
        sample, prompt = case.prompt.sample, case.prompt
        assert len(prompt.groups) == len(prompt.items) == len(prompt) and prompt.groups[-1] == "last"
        wanted = {kind for kind in ("video", "audio", "image") if getattr(sample, kind)}
        assert wanted <= set(case.media) and set(case.media) - wanted <= {"audio"}
        for kind in case.media:
            items = [i for g, i in zip(prompt.groups, prompt.items, strict=True) if g == kind]
            assert items == sorted(items) and set(items) == set(range(max(items) + 1))
        decode = case.model.processor.tokenizer.decode
        said = {g: decode([t for t, h in zip(prompt.input_ids.tolist(), prompt.groups, strict=True) if h == g])
                for g in ("option_correct", "option_incorrect")}  # fmt: skip
        assert said["option_correct"].strip() == "A. red"
        assert [line.strip() for line in said["option_incorrect"].split("\n") if line] == ["B. green", "C. blue"]


def test_sweeps(cases):
    for case in cases:
        named = [f"{case.media[0]}->question", *(f"{kind}->last" for kind in case.media), "question->last"]
        knockouts = as_knockouts([*named, f"cross:{case.media[0]}"])
        rows = avflow.sweep(case.bare, case.prompt, knockouts=knockouts, select="all", window=2).table.to_pylist()
        done = [row for row in rows if row["status"] == "ok"]
        assert {row["knockout"] for row in done} >= set(named)
        assert oracle.check_rows(case.hf, case.prompt, knockouts, done, window=2) > 1e-3


def test_knockouts_in_its_own_forward(cases):
    for case in cases:
        (rule,) = as_knockouts([f"{case.media[0]}->question"])
        groups, items = [*case.prompt.groups, *["answer"] * NEW], [*case.prompt.items, *[-1] * NEW]
        cut = oracle.cut_edges(rule, groups, items, case.model.n_heads)[None]
        with avflow.knockout(case.model, rule, range(1, 3), groups=case.prompt):
            ours = case.generate()
        with oracle.dense(case.hf, {1: cut, 2: cut}):
            theirs = case.generate()
        _check_generated(ours, theirs, case.generate())


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_eviction_and_generation(cases, decode):
    for case in cases:
        schedule = {case.media[0]: 0, "question": 1}
        with avflow.evict(case.model, schedule, decode, groups=case.prompt):
            ours = case.generate()
        gone = leaves([list(case.prompt.groups)], schedule)
        assert bool((gone < NEVER).any())
        ends = [len(case.prompt)] if decode == "drop" else None
        cuts = cuts_of(gone, NEW, ends, layers=case.model.n_layers)
        with oracle.dense(case.hf, {layer: cut[:, :1] for layer, cut in cuts.items()}):
            theirs = case.generate()
        _check_generated(ours, theirs, case.generate())


def _check_generated(ours, theirs, clean) -> None:
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    for one, other in zip(ours.logits, theirs.logits, strict=True):
        assert far(one, other) < 1e-4
    assert max(far(one, other) for one, other in zip(ours.logits, clean.logits, strict=True)) > 1e-3


def test_shares_of_attention(cases):
    for case in cases:
        attention, _, _ = case.clean
        for row in avflow.attention_share(case.model, case.prompt).table.to_pylist():
            mine = torch.tensor([group == row["group"] for group in case.prompt.groups])
            want = float(attention[row["layer"]][0, :, -1, mine].sum(-1).mean())
            assert row["share"] == pytest.approx(want, abs=1e-5)


def test_the_lens(cases):
    for case in cases:
        _, hidden, logits = case.clean
        last = case.model.n_layers - 1
        for row in avflow.answer_lens(case.bare, case.prompt).table.to_pylist():
            with torch.no_grad():
                state = case.model.lm_head(case.model.norm(hidden[row["layer"]][-1]))
            want = torch.log_softmax((logits[-1] if row["layer"] == last else state).float(), -1)
            assert row["logp"] == pytest.approx(float(want[row["token_id"]]), abs=1e-4)


def test_pathways(cases):
    for case in cases:
        first = case.media[0]
        keep = {f"cross:{first}": [0], f"{first}->question": [0, 1], "question->last": [1, 2]}
        masks, share = pathway_oracle.masks(case.prompt, keep, case.model.n_layers, 1)
        full, kept = avflow.pathways(case.model, case.prompt, keep, random=0).table.to_pylist()
        want, _ = oracle.answer_logp(case.hf, case.prompt, cuts=masks)
        assert kept["logp"] == pytest.approx(want, abs=1e-4) and kept["edges_kept"] == pytest.approx(share)
        assert abs(kept["logp"] - full["logp"]) > 1e-3


def test_positions_after_the_prompt(cases):
    """The walk appends answers where generate would."""
    for case in cases:
        given = []
        hook = find_text_model(case.hf).register_forward_pre_hook(
            lambda _m, _a, kwargs, given=given: given.append(kwargs.get("position_ids")), with_kwargs=True
        )
        try:
            case.generate(max_new_tokens=2)
        finally:
            hook.remove()
        if given[-1] is None:
            continue  # the decoder counts for itself
        place = given[-1][1:] if given[-1].dim() == 3 and len(given[-1]) == 4 else given[-1]  # [0]: text positions
        assert np.all(place[..., -1].numpy() == capture(case.model, case.prompt).after)
