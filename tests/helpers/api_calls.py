"""The public API as calls with good arguments, of which a test replaces some: name -> (callable, arguments)."""

from __future__ import annotations

import inspect

import tiny

import avflow
import avflow.data
from avflow.data.prepare import as_prompts
from avflow.planning.plan_eviction import PlanRequest

SAMPLE = dict(id="0", question="?", options=["a", "b"], answer="A", video="v.mp4")
ITEM = dict(id="0", question="?", answer="A", candidates=["1.png", "2.png"], reference="r.wav")


def calls(model):
    """Name -> (callable, good arguments); a call with the good ones alone must work."""
    prompt = tiny.text_prompt(8, id="p")
    rows = {"input_ids": [1, 2, 3], "groups": ["video", "question_text", "last"], "answer_ids": [7]}
    step = avflow.Step("question_text", 0)
    return {
        "Sample": (avflow.Sample, SAMPLE),
        "item": (avflow.Sample, ITEM),
        "read_jsonl": (avflow.Sample.read_jsonl, {"path": "samples.jsonl"}),
        "Prompt": (avflow.Prompt, rows),
        "Knockout": (avflow.Knockout, {"source": "video", "target": "last"}),
        "Knockout.parse": (avflow.Knockout.parse, {"text": "video->last"}),
        "Step": (avflow.Step, {"group": "video", "after": 1}),
        "EveryNth": (avflow.EveryNth, {"n": 2}),
        "TopK": (avflow.TopK, {"count": 2}),
        "EvictionSchedule": (avflow.EvictionSchedule, {"steps": [step]}),
        "EvictionSchedule.load": (avflow.EvictionSchedule.load, {}),
        "EvictionSchedule.preset": (avflow.EvictionSchedule.preset, {"name": "omni_3b_av_video"}),
        "SweepRequest": (avflow.SweepRequest, {}),
        "groups.add": (model.groups.add, {"name": "video"}),
        "groups.expand": (model.groups.expand, {"name": "video"}),
        "data.read": (avflow.data.read, {"source": "nowhere.json"}),
        "data.choose": (avflow.data.choose, {"samples": []}),
        "data.mapping_of": (avflow.data.mapping_of, {"name": "tvbench"}),
        "data.DataMapping": (avflow.data.DataMapping, {"video": "v"}),
        "as_prompts": (as_prompts, {"model": model, "given": prompt}),
        "sweep": (avflow.sweep, {"model": model, "prompts": prompt, "knockouts": "video->last", "select": "all"}),
        "sweep_text": (avflow.sweep_text, {"model": model, "prompts": prompt, "knockouts": "video->last"}),
        "estimate": (avflow.estimate, {"model": model, "prompts": prompt}),
        "attention_share": (avflow.attention_share, {"model": model, "prompts": prompt}),
        "attention_map": (avflow.attention_map, {"model": model, "prompt": prompt}),
        "answer_lens": (avflow.answer_lens, {"model": model, "prompts": prompt}),
        "token_lens": (avflow.token_lens, {"model": model, "prompts": prompt, "tokens": "question"}),
        "lens_shift": (avflow.lens_shift, {"model": model, "other": model, "prompts": prompt}),
        "Amplification": (avflow.Amplification, {"source": "video", "target": "last", "factor": 2}),
        "sinks": (avflow.sinks, {"model": model, "prompts": prompt, "among": "question"}),
        "mark_sinks": (avflow.mark_sinks, {"model": model, "prompt": prompt, "tokens": [0]}),
        "pathways": (avflow.pathways, {"model": model, "prompts": prompt, "keep": {"question->last": None}}),
        "patch": (
            avflow.patch,
            {"model": model, "prompts": prompt, "source": "zero", "sites": "question", "select": "all"},
        ),
        "PatchSite": (avflow.PatchSite, {"group": "video"}),
        "PatchSource.noise": (avflow.PatchSource.noise, {"sd": 0.1}),
        "PatchSource.parse": (avflow.PatchSource.parse, {"text": "silence"}),
        "PatchSource.add": (avflow.PatchSource.add, {"vector": [1.0, 2.0]}),
        "PlanRequest": (PlanRequest, {}),
        "plan_eviction": (plan_of, {"model": model, "prompts": prompt}),
        "generate": (avflow.generate, {"model": model, "prompt": prompt}),
        "prepare": (model.prepare, {"sample": avflow.Sample(**SAMPLE)}),
        "read": (avflow.read, {}),
        "knockout": (
            lambda **given: avflow.knockout(**given).__enter__(),
            {"model": model, "knockouts": "video->last"},
        ),
        "evict": (lambda **given: avflow.evict(**given).__enter__(), {"model": model, "schedule": {"video": 1}}),
    }


def plan_of(model, prompts):
    return avflow.plan_eviction(model, prompts, groups=["question_text"])


SIGNATURES = {"knockout": avflow.knockout, "evict": avflow.evict}
# Arguments that are objects of other packages or the user's own, taken as they are.
FREE = {("Prompt", "sample"), ("Prompt", "model_inputs"), ("Prompt", "inputs_embeds"), ("as_prompts", "again")}
FREE |= {("sweep", "progress"), ("plan_eviction", "progress"), ("as_prompts", "model")}  # only asked whether it is true
FREE |= {("patch", "progress"), ("lens_shift", "ask")}  # the second is the user's function


class _NoModel:
    """For the names of the calls alone."""

    from avflow.prompts.groups import GroupTable as _Table

    groups = _Table()
    prepare = avflow.Model.prepare


def arguments():
    """(call's name, argument's name) of all that a user may get wrong."""
    for name, (function, _) in calls(_NoModel()).items():
        parameters = inspect.signature(SIGNATURES.get(name, function)).parameters.values()
        for one in parameters:
            named = one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
            if named and (name, one.name) not in FREE and one.name != "self":
                yield name, one.name
