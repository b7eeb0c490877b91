"""What a sweep and an eviction take on this machine with one's own model, beside transformers' own forward."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from avflow_ext import AttentionProblem, Tokens, attention

from ..checks import MOST_TOKENS, integer, shown
from ..errors import InputError
from ..eviction.schedule import EvictionSchedule
from ..experiments.sweep import sweep_prompt
from ..experiments.sweep_plan import SweepRequest
from ..models.attention import kernel_name
from ..models.base import Model
from ..models.compat import kept_state
from ..planning.savings import eviction_cost
from ..prompts.prompt import Prompt
from ..runtime.answering import own_run
from ..runtime.evict import evict

PATHS = ["video->question", "audio->question", "video->last", "audio->last", "question->last"]
QUESTION = 50  # tokens
LEAST_TOKENS = 200


def check(tokens: int, rounds: int) -> None:
    """Raises InputError: fewer than 200 tokens, more than any model reads; no round, or more than anyone waits for."""
    if not LEAST_TOKENS <= tokens <= MOST_TOKENS:
        bound = f"{LEAST_TOKENS} or more" if tokens < LEAST_TOKENS else f"{MOST_TOKENS:,} or fewer"
        raise InputError(f"{shown(tokens)} tokens: pass {bound}")
    integer("rounds =", rounds, low=1, high=10_000, mend="pass 1 or more, 10,000 at most")


def bench_prompt(model: Model, tokens: int) -> Prompt:
    """A labelled prompt of random words in the layout of a video with sound: 75 video and 25 audio tokens in turns."""
    media = tokens - QUESTION - 13
    groups, items = ["system"] * 12, [-1] * 12
    for i in range(media):
        second, at = divmod(i, 100)
        groups.append("video" if at < 75 else "audio")
        items.append(second)
    groups += ["question_text"] * QUESTION + ["last"]
    items += [-1] * (QUESTION + 1)
    words = model.text_model.embed_tokens
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, words.num_embeddings, (tokens,), generator=g)
    with torch.no_grad():
        embeds = words(ids.to(words.weight.device))  # [tokens, hidden]
    return Prompt(inputs_embeds=embeds, groups=groups, items=items, answer_ids=[int(ids[-1])], id="bench")


class _Turns:
    """Best seconds of calls that take turns: a shared machine is slow now and then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __call__(self, calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        best = dict.fromkeys(calls, float("inf"))
        for call in calls.values():
            call()  # plans, allocations
        for _ in range(rounds):
            for name, call in calls.items():
                self._wait()
                began = time.perf_counter()
                call()
                self._wait()
                best[name] = min(best[name], time.perf_counter() - began)
        return best


def _op(model: Model, tokens: int, turns: _Turns, rounds: int) -> dict[str, Any]:
    """One layer's attention without cuts, and torch's own in the same shapes."""
    heads, kv_heads, d = model.n_heads, model.n_kv_heads, model.head_dim
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(tokens, n, d, generator=g).to(model.device, model.dtype) for n in (heads, kv_heads, kv_heads)
    )
    problem = AttentionProblem(Tokens(torch.arange(tokens), torch.zeros(tokens, dtype=torch.int32)))
    wide_q, wide_k, wide_v = (t.transpose(0, 1)[None] for t in (q, k, v))  # [1, heads, tokens, d]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    found = turns(
        {
            "avflow": lambda: attention(q, k, v, problem),
            "sdpa": lambda: sdpa(wide_q, wide_k, wide_v, is_causal=True, enable_gqa=heads != kv_heads),
        },
        rounds,
    )
    return {"seconds": found, "over_sdpa": found["avflow"] / found["sdpa"]}


def _sweep(model: Model, prompt: Prompt, turns: _Turns, rounds: int) -> dict[str, Any]:
    request = SweepRequest(PATHS, select="all")
    plan = request.plan(model, [prompt]).cost
    assert prompt.inputs_embeds is not None  # bench_prompt's
    embeds = prompt.inputs_embeds[None].to(model.device, model.dtype)

    def clean() -> None:
        hidden = model.text_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        model.lm_head(hidden[:, -1:])

    seconds = turns({"clean": clean, "sweep": lambda: sweep_prompt(model, prompt, request)}, rounds)
    runs = len(PATHS) * model.n_layers
    ratio = seconds["sweep"] / seconds["clean"]
    return {"seconds": seconds, "runs": runs, "over_clean": ratio, "packed_rows": plan["ratio"]} | {
        "forward_each_over_sweep": runs / ratio
    }


def _eviction(model: Model, prompt: Prompt, turns: _Turns, rounds: int) -> dict[str, Any]:
    """The decoder's part of a prefill, all tokens kept and the media gone after half of the layers."""
    after = model.n_layers // 2 - 1
    schedule = EvictionSchedule({"video": after, "audio": after})
    groups, items = list(prompt.groups), list(prompt.items)
    runs: dict[str, list] = {"plain": [], "evict": []}

    def plain() -> None:
        runs["plain"].append(own_run(model, prompt))

    def evicted() -> None:
        with evict(model, schedule, groups=groups, items=items):
            runs["evict"].append(own_run(model, prompt))

    turns({"plain": plain, "evict": evicted}, rounds)
    best = {name: min(run.decoder_seconds for run in found[1:]) for name, found in runs.items()}  # first: to warm up
    kv = {name: found[0].kv_bytes for name, found in runs.items()}
    return {
        "after": after,
        "seconds": best,
        "over_plain": best["evict"] / best["plain"],
        "flops": 1 - eviction_cost(model, schedule, prompt)["flops_saved"],
        "kv_bytes": kv["evict"] / kv["plain"],
    }


@torch.no_grad()
def bench(model: Model, tokens: int = 4096, rounds: int = 3) -> dict[str, Any]:
    """Times one layer's attention, a sweep and an evicted prefill against transformers, in turns; random words.

    Args:
        tokens: of the prompt, 200 or more: 12 of system text, media, 50 of a question, the last.
        rounds: turns of each candidate; the best time counts.

    Returns:
        {"model", "device", "dtype", "kernel", "tokens", "attention", "sweep", "eviction"}; times in seconds. Of the
        last three: attention {"seconds": {avflow, sdpa}, "over_sdpa"}; sweep {"seconds": {clean, sweep}, "runs",
        "over_clean", "packed_rows", "forward_each_over_sweep"}; eviction {"after", "seconds": {plain, evict},
        "over_plain", "flops", "kv_bytes"}, the last two as shares of the plain prefill's.

    Raises:
        InputError: too few tokens, or fewer than one round.
    """
    check(tokens, rounds)
    prompt = bench_prompt(model, tokens)
    turns = _Turns(model.device)
    with kept_state(model.hf):
        return {
            "model": type(model.hf).__name__,
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "kernel": kernel_name(model.device),
            "tokens": tokens,
            "attention": _op(model, tokens, turns, rounds),
            "sweep": _sweep(model, prompt, turns, rounds),
            "eviction": _eviction(model, prompt, turns, rounds),
        }


def lines(found: dict[str, Any]) -> list[str]:
    """What `bench` found, in lines."""
    op, sweep, eviction = found["attention"], found["sweep"], found["eviction"]
    where = f"{found['dtype']} on {found['device']}, kernel {found['kernel']}"
    return [
        f"{found['model']}, {found['tokens']:,} tokens, {where}",
        f"attention of one layer   {op['seconds']['avflow'] * 1e3:10.2f} ms   {op['over_sdpa']:.2f} x torch's sdpa",
        f"clean forward            {sweep['seconds']['clean'] * 1e3:10.2f} ms",
        f"sweep, {sweep['runs']:>4} runs         {sweep['seconds']['sweep'] * 1e3:10.2f} ms   "
        f"{sweep['over_clean']:.2f} x the clean forward (packed rows {sweep['packed_rows']:.2f} x); a forward for each "
        f"run would take {sweep['forward_each_over_sweep']:.0f} x as long",
        f"prefill, media leave after layer {eviction['after']}: {eviction['seconds']['evict'] * 1e3:.2f} ms   "
        f"{eviction['over_plain']:.2f} x the plain one (FLOPs {eviction['flops']:.2f} x, KV bytes "
        f"{eviction['kv_bytes']:.2f} x)",
    ]
