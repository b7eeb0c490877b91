"""Map the Flow's protocol, rendered anew in plain torch, beside avflow under its named style and rules.

On the study's side nothing is avflow's but labels and prompts: groups by name, dense masks through the model's own
forward, one per path and layer. What is compared: which samples are selected, the percentages of the model's own answer
and of the key, the pathways' share of edges and answer. The table is printed (-s).
"""

import math

import pytest
import tiny
import torch
from clips import Clip
from demo_folder import clip_file
from oracle import dense

import avflow

WINDOW, LIMIT = 9, 1e-4
QUESTION = ("question_text", "option_correct", "option_incorrect")
# (path, key groups, row groups, between frames only, each token's edge to itself too)
PATHS = (
    ("cross:video", ("video",), ("video",), True, False),
    ("video->question", ("video",), QUESTION, False, False),
    ("question->last", QUESTION, ("last",), False, False),
    ("video->last", ("video",), ("last",), False, False),
    ("last->last (self)", ("last",), ("last",), False, True),
    ("question_text->last", ("question_text",), ("last",), False, False),
    ("option_correct->last", ("option_correct",), ("last",), False, False),
    ("option_incorrect->last", ("option_incorrect",), ("last",), False, False),
    ("video->question_text", ("video",), ("question_text",), False, False),
    ("question_text->option_correct", ("question_text",), ("option_correct",), False, False),
    ("video->option_correct", ("video",), ("option_correct",), False, False),
)


class Study:
    """One prompt under the study's rule."""

    def __init__(self, model, prompt):
        self.model, self.prompt, self.n = model, prompt, len(prompt)
        self.heads, self.layers = model.n_heads, model.n_layers
        self.clean = self.predict({})
        self.own = int(self.clean.argmax())  # base answer: of the whole vocabulary

    @torch.no_grad()
    def predict(self, masks):
        """log-probabilities of the next token, [vocab]. masks: layer -> bool [n, n], True: cut."""
        inputs = dict(self.prompt.model_inputs or {}) | {"input_ids": self.prompt.input_ids[None]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        cuts = {layer: mask.expand(1, self.heads, self.n, self.n) for layer, mask in masks.items()}
        with dense(self.model.hf, cuts):
            logits = self.model.hf(**inputs, use_cache=False).logits[0, -1].float()
        return torch.log_softmax(logits, -1)

    def selected(self):
        """Lower-cased, the most probable token of the vocabulary is the key."""
        said, key = self.model.text([self.own]), self.prompt.answer or self.model.text(list(self.prompt.answer_ids))
        return said.strip().lower() == key.strip().lower()

    def mask(self, sources, targets, frames, itself):
        cut = torch.zeros(self.n, self.n, dtype=torch.bool)
        groups, items = self.prompt.groups, self.prompt.items
        for i in range(self.n):
            for j in range(i + 1):
                if groups[j] in sources and groups[i] in targets and (i != j or itself):
                    cut[i, j] = not frames or items[i] != items[j]
        return cut

    def changes(self):
        """{(path, layer): (percent of the own answer, percent of the key)}"""
        out, key = {}, self.prompt.answer_ids[0]
        for name, *rule in PATHS:
            cut = self.mask(*rule)
            for layer in range(self.layers):
                window = range(max(0, layer - WINDOW // 2), min(self.layers, layer + math.ceil(WINDOW / 2)))
                found = self.predict({x: cut for x in window})
                out[name, layer] = tuple(
                    100 * float((found[t].exp() - self.clean[t].exp()) / self.clean[t].exp()) for t in (self.own, key)
                )
        return out

    def pathways(self, keep):
        """Share of edges kept from the video on, and the key's log-probability. keep: [(keys, rows, layers)]."""
        groups, begin = self.prompt.groups, self.prompt.groups.index("video")
        own = {"video": range(20), "last": ()} | dict.fromkeys(QUESTION, range(25))
        masks, kept, total = {}, 0, 0
        for layer in range(self.layers):
            cut = torch.zeros(self.n, self.n, dtype=torch.bool)
            for i in range(self.n):
                for j in range(i + 1):
                    a, b = groups[j], groups[i]
                    if a == b == "last":
                        cut[i, j] = True
                    elif i == j or a in ("system", "template"):
                        continue
                    elif a == b or {a, b} <= set(QUESTION):
                        cut[i, j] = layer not in own.get(a, range(self.layers))
                    else:
                        cut[i, j] = not any(a in keys and b in rows and layer in some for keys, rows, some in keep)
            masks[layer] = cut
            seen = self.n - begin
            total += seen * (seen + 1) // 2
            kept += seen * (seen + 1) // 2 - int(cut[begin:, begin:].sum())
        return kept / total, float(self.predict(masks)[self.prompt.answer_ids[0]])


def thinker_prompts():
    """A random Thinker of 26 layers, past all of the rule's borders; of two prompts one has its own answer for key."""
    random = avflow.wrap(tiny.thinker(layers=26, heads=2, kv_heads=1))
    prompts = [tiny.av_prompt("silent", seconds=2, seed=seed, id=str(seed)) for seed in (1, 2)]
    prompts[0].answer_ids = [Study(random, prompts[0]).own]
    return random, prompts


def tiny_omni_prompts():
    """The study's wording; the same clip with each of its options for the key, one of which the model says."""
    omni = avflow.load("tiny-omni")
    asked = {"question": "Which color is the shape?", "options": ["red", "green", "blue"]}
    samples = [avflow.Sample(id=key, answer=key, video=str(clip_file(Clip())), **asked) for key in "ABC"]
    return omni, [omni.prepare(sample, prompt_style="map_the_flow", max_frames=4) for sample in samples]


@pytest.mark.parametrize("prompts_of", [tiny_omni_prompts, thinker_prompts])
def test_parity(prompts_of):
    here, prompts = prompts_of()
    studies = {prompt.id: Study(here, prompt) for prompt in prompts}
    asked = dict(knockouts="map_the_flow", window=WINDOW, target="own", correct_by="vocabulary")
    found = avflow.sweep(here, prompts, **asked)
    chosen = {name for name, study in studies.items() if study.selected()}
    assert {info["prompt"] for info in found.meta["prompts"] if info["selected"]} == chosen
    assert set(found.table["prompt"].to_pylist()) == chosen and 0 < len(chosen) < len(prompts)

    rest = avflow.sweep(here, [p for p in prompts if p.id not in chosen][:1], **asked | {"select": "all"})
    rows = [*found.table.to_pylist(), *rest.table.to_pylist()]
    changes = {name: studies[name].changes() for name in {row["prompt"] for row in rows}}
    worst = {name: 0.0 for name, *_ in PATHS}
    for row in rows:
        own, key = changes[row["prompt"]][row["knockout"], row["layer"]]
        far = max(abs(row["change_percent"] - own), abs(row["change_percent_key"] - key)) / 100
        worst[row["knockout"]] = max(worst[row["knockout"]], far)
    assert len(rows) == 2 * len(PATHS) * here.n_layers and max(worst.values()) <= LIMIT, worst
    assert max(abs(row["change_percent"]) for row in rows) > 1  # the cuts matter

    third = here.n_layers // 3
    keep = {"video->question": range(third, 2 * third), "question->last": range(2 * third, here.n_layers)}
    by_name = [(("video",), QUESTION, keep["video->question"]), (QUESTION, ("last",), keep["question->last"])]
    table = avflow.pathways(here, prompts, keep, rule="map_the_flow", random=1).table.to_pylist()
    print(f"\n{'path':32} largest difference, {len(rows)} rows")
    for name, far in worst.items():
        print(f"{name:32} {far:.1e}")
    for name, study in studies.items():
        share, logp = study.pathways(by_name)
        full, kept, control = (row for row in table if row["prompt"] == name)
        assert kept["edges_kept"] == control["edges_kept"] == pytest.approx(share, abs=1e-12)
        assert kept["logp"] == pytest.approx(logp, abs=LIMIT) and share < 1
        assert full["logp"] == pytest.approx(float(study.clean[study.prompt.answer_ids[0]]), abs=LIMIT)
        print(
            f"pathways, sample {name}: {100 * share:.1f} % of edges kept, log p off by {abs(kept['logp'] - logp):.1e}"
        )
