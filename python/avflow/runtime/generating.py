"""What the model itself generates: an answer, with or without an eviction schedule, and what it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import MOST_TOKENS, choice, integer
from ..data.prepare import PromptSource, as_prompt
from ..errors import InputError
from ..eviction.schedule import PRESETS, EvictionSchedule
from ..models.base import Model, check_model
from ..models.compat import attributes, cache_of, kept_state
from ..models.evaluating import in_eval_mode
from ..models.inputs import forward_inputs
from ..prompts.prompt import Prompt
from ..prompts.sample import Sample
from .answering import Clock, cache_bytes
from .evict import DECODE, evict


@dataclass
class Generated:
    """One answer."""

    text: str
    ids: list[int]
    prefill_seconds: float  # until the decoder has read the prompt, media encoders included
    decode_seconds: float  # of all tokens after the first
    kv_bytes: int  # keys and values cached at the end

    @property
    def step_seconds(self) -> float | None:
        """Seconds a decoded token; None where there is the first one only."""
        return self.decode_seconds / (len(self.ids) - 1) if len(self.ids) > 1 else None


def read_schedule(name: str) -> EvictionSchedule:
    """A preset's name, or a file.

    Raises:
        InputError: neither.
    """
    if name in PRESETS:
        return EvictionSchedule.preset(name)
    try:
        return EvictionSchedule.load(name)
    except InputError as error:
        raise InputError(f"{error} (presets: {', '.join(PRESETS)})") from error


def open_sample(question: str, options: Sequence[str] | None = None, **media: Any) -> Sample:
    """A question without a known answer. media: video, audio, image, use_audio_in_video of a Sample.

    Raises:
        InputError: no medium, one option only.
    """
    # Sample and Prompt hold the answer that is watched; here none is, and check_open sees that no label depends on it.
    return Sample.open(id="question", question=question, options=list(options or ()) or None, **media)


def check_open(model: Model, schedule: EvictionSchedule) -> None:
    """Raises InputError for a schedule that needs to know the right answer."""
    for step in schedule.steps:
        named = set(model.groups.members(step.group))
        for kind in ("option", "candidate"):
            both = {f"{kind}_correct", f"{kind}_incorrect"}
            if named & both and not both <= named:
                raise InputError(
                    f"the schedule drops {step.group!r}: which {kind} is right nobody knows here; drop all {kind}s"
                )


def generate(
    model: Model,
    prompt: PromptSource,
    schedule: EvictionSchedule | Mapping[str, int] | Sequence[Any] | None = None,
    decode: str = "keep",
    max_new_tokens: int = 32,
) -> Generated:
    """The most probable continuation of the prompt (greedy).

    Args:
        prompt: one Prompt or Sample, or what else `avflow.sweep` takes, with one in it.
        schedule, decode: as `avflow.evict` takes them; None: nothing leaves. The groups are the prompt's own.

    Raises:
        InputError: none or several prompts, a schedule that does not fit, or that needs to know the right answer.
    """
    check_model(model)
    prompt = as_prompt(model, prompt, answers=False)
    choice("decode", decode, DECODE)
    if schedule is not None and not isinstance(schedule, EvictionSchedule):
        schedule = EvictionSchedule(schedule)
    mend = "pass an integer of at least 1"
    max_new_tokens = integer("max_new_tokens =", max_new_tokens, low=1, high=MOST_TOKENS, mend=mend)
    if schedule is None:
        return _generate(model, prompt, max_new_tokens)
    check_open(model, schedule)
    with evict(model, schedule, decode=decode, groups=prompt):
        return _generate(model, prompt, max_new_tokens)


def _generate(model: Model, prompt: Prompt, max_new_tokens: int) -> Generated:
    inputs = forward_inputs(model, prompt)
    options: dict[str, Any] = dict(max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True)
    with kept_state(model.hf), in_eval_mode(model), Clock(model) as clock:
        out = model.hf.generate(**inputs, **options)
        seconds = clock.read()
    given = len(prompt) if prompt.input_ids is not None else 0  # from embeddings, generate gives the new ids alone
    ids = out.sequences[0, given:].tolist()
    prefill = clock.first_end
    return Generated(answer_text(model, ids), ids, prefill, seconds - prefill, cache_bytes(cache_of(out)))


def answer_text(model: Model, ids: Sequence[int]) -> str:
    """Generated ids as the text that a user sees: without end tokens and outer spaces."""
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    text = model.text(list(ids)) if tokenizer is None else tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()


@torch.no_grad()
def with_generated(model: Model, prompt: Prompt, count: int) -> Prompt:
    """The prompt with `count` greedily generated tokens in its answer, and the one that follows them.

    The last of them is only predicted: a walk appends all but the last. Fewer where the model ends its answer.

    Raises:
        InputError: a model that cannot generate, a prompt of embeddings alone.
    """
    if not hasattr(model.hf, "generate"):
        raise InputError(f"{type(model.hf).__name__} cannot generate: pass prompts with the answer_ids to look at")
    if prompt.inputs_embeds is not None:
        raise InputError(
            f"prompt {prompt.id!r} has inputs_embeds alone: generate from it yourself, and pass that as answer_ids"
        )
    inputs = forward_inputs(model, prompt)
    with kept_state(model.hf), in_eval_mode(model), attributes(model.family.patches(model)):
        out = model.hf.generate(**inputs, max_new_tokens=count + 1, do_sample=False, num_beams=1)
    ids = out[0, len(prompt) :].tolist()
    return dataclasses.replace(prompt, answer_ids=ids, answer=model.text(ids), option_ids=None)
