"""A prompt's answer by the model's own forward and cache, with what it took: the run that a production runtime does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from ..models.base import Model
from ..models.compat import cache_argument, cache_of, kept_state, position_after
from ..models.evaluating import in_eval_mode
from ..models.inputs import forward_inputs
from ..prompts.correct import answers_correctly
from ..prompts.prompt import Prompt


@dataclass
class OwnRun:
    """One prompt answered by `model.hf`, the answer's tokens fed one by one after a prefill."""

    logp: float  # natural log, all answer tokens
    correct: bool  # as prompts.correct defines it
    prefill_seconds: float  # media encoders and decoder
    decoder_seconds: float  # of these, in the decoder
    kv_bytes: int  # keys and values cached after the prefill
    first: torch.Tensor | None = None  # logits [vocab] that predict the answer's first token, where asked for


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values in a transformers cache."""
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))


class Clock:
    """Within its block, what the decoder is given and the seconds it takes; the device's work is waited for.

    Attributes:
        decoder: seconds in the decoder. first_end: seconds from the block's begin to the end of its first run.
        position_ids: of its last run, [3 or 4, 1, N] or [1, N].
    """

    def __init__(self, model: Model) -> None:
        self.model, self.decoder, self.first_end = model, 0.0, 0.0
        self.position_ids: torch.Tensor | None = None

    def __enter__(self) -> Clock:
        module = self.model.text_model
        self.handles = [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave),
        ]
        self.began = self._now()
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()

    def read(self) -> float:
        """Seconds since the block began."""
        return self._now() - self.began

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    def _enter(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.position_ids = kwargs.get("position_ids")
        self.entered = self._now()

    def _leave(self, *_: Any) -> None:
        now = self._now()
        self.decoder += now - self.entered
        self.first_end = self.first_end or now - self.began


@torch.no_grad()
def own_run(model: Model, prompt: Prompt, keep_first: bool = False) -> OwnRun:
    """Prefills the prompt, then feeds the answer's tokens; within avflow.evict or avflow.knockout, as they make it.

    keep_first: the run keeps its `first`.

    Raises:
        InputError: a prompt without an answer.
    """
    prompt.check_answered()
    inputs = forward_inputs(model, prompt)
    n, device = len(prompt), model.device
    with kept_state(model.hf), in_eval_mode(model):
        with Clock(model) as clock:
            out = model.hf(**inputs, use_cache=True)
            seconds = clock.read()
        cache = cache_of(out)
        after = None if "position_ids" in inputs else position_after(model.hf.modules(), n)
        kv_bytes = cache_bytes(cache)
        rows = [out.logits[0, -1].float()]  # [vocab] each
        for count, token in enumerate(prompt.answer_ids[:-1], start=1):
            step = {"input_ids": torch.tensor([[token]], device=device), cache_argument(): cache}
            if clock.position_ids is not None:  # passed: Omni would count them from the mask, for all tokens
                place = clock.position_ids[-3:] if clock.position_ids.dim() == 3 else clock.position_ids
                begin = place.max() + 1 if after is None else place.new_tensor(after)
                step["position_ids"] = (begin + count - 1).expand(*place.shape[:-1], 1)
            step["attention_mask"] = torch.ones(1, n + count, dtype=torch.long, device=device)
            rows.append(model.hf(**step, use_cache=True).logits[0, -1].float())
    logits = torch.stack(rows)  # [answer tokens, vocab]
    ids = torch.tensor(prompt.answer_ids, device=device)
    own = logits.gather(1, ids[:, None])[:, 0]
    logp = float((own - logits.logsumexp(-1)).double().sum())
    return OwnRun(
        logp, answers_correctly(prompt, logits), seconds, clock.decoder, kv_bytes, logits[0] if keep_first else None
    )
