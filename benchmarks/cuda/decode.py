"""Decoding after an evicted prefill, a part of cuda/evict.py: tokens per second at several batch sizes.

  plain  transformers' own forward, sdpa
  keep   avflow.evict, decode="keep"
  drop   avflow.evict, decode="drop"
Each eagerly, with the DynamicCache that generate makes, and for plain and keep as a CUDA graph of one step: a static
cache, the step traced by torch.compile (backend "eager": the same kernels, no Python in between) and captured. drop has
no graph: it frees memory, which a static cache cannot. With a static cache transformers' sdpa gets a mask, for which it
repeats keys and values for every head, so that the plain step can be slower with a graph than without.
One prompt is read, and its cache repeated for the batch; every sequence's keys lie in memory of their own, so that a
step moves as many bytes as with different prompts.

For each batch also one layer's attention by itself, planned with one sequence a row tile, as the op plans it, and with
as many as fit, as it once did. Claim: one sequence a tile is never slower, and reads at what memory gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import avflow
from avflow.models.compat import cache_argument, cache_of
from avflow.runtime.answering import cache_bytes
from avflow.runtime.conversation import STATE
from avflow_ext import AttentionProblem, Streams, Tokens, attention
from benchmarks.lib.graphs import captured
from benchmarks.lib.report import Report
from benchmarks.lib.timing import Clock, side_by_side

CACHE = cache_argument()

STEPS = 16  # timed together
TURNS = 2  # each with a call to warm up
ROOM = 96  # slots of the static cache behind the prompt: warm-ups and STEPS
TRACING = 20.0  # seconds that tracing and capturing a step may take
ATTENTION = 0.4  # seconds of turns of a layer's attention by itself
TOLERANCE = 0.05  # relative difference of a graph's logits from those of the same step run eagerly


def widen(cache: Any, batch: int) -> Any:
    """The cache of one sequence, for a batch of the same; labels of avflow's blocks along with it."""
    for layer in cache.layers:
        layer.keys, layer.values = (t.repeat(batch, 1, 1, 1) for t in (layer.keys, layer.values))
        if hasattr(layer, "max_batch_size"):
            layer.max_batch_size = batch
    state = cache.__dict__.get(STATE)
    if state is not None:
        wide = state.copy()
        for name in ("group", "item", "real", "gone"):
            setattr(wide, name, np.repeat(getattr(state, name), batch, 0))
        wide.columns = [np.repeat(columns, batch, 0) for columns in state.columns]
        wide.ids = None if state.ids is None else state.ids.repeat(batch, 1)
        cache.__dict__[STATE] = wide
    return cache


def take_back(cache: Any, steps: int) -> None:
    """The last `steps` tokens leave; a static cache writes over their slots."""
    if isinstance(getattr(cache.layers[0], "cumulative_length", None), torch.Tensor):
        for layer in cache.layers:
            layer.cumulative_length.sub_(steps)
    else:
        cache.crop(-steps)


def row_tiles(
    batch: int, tokens: int, heads: tuple[int, int, int], device: str, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """A layer's attention of one new row for each sequence: seconds and bytes a second by how row tiles are planned.

    heads: query heads, kv heads, d. The cache is [batch, kv heads, tokens, d], as transformers has it.

    Raises:
        AssertionError: the two plans do not agree to what the dtype resolves.
    """
    n_heads, kv_heads, d = heads
    keys = Tokens(
        torch.arange(tokens).repeat(batch),
        torch.zeros(batch * tokens, dtype=torch.int32),
        None,
        torch.arange(batch).repeat_interleave(tokens),
    )
    rows = keys.select(torch.arange(1, batch + 1) * tokens - 1)
    g = torch.Generator(device=device).manual_seed(0)
    q = torch.randn(batch, n_heads, d, generator=g, device=device).to(dtype)
    k, v = (
        torch.randn(batch, kv_heads, tokens, d, generator=g, device=device).to(dtype).transpose(1, 2) for _ in range(2)
    )
    problems = {"one sequence": AttentionProblem(rows, keys, Streams.roots(batch))}
    problems["several"] = AttentionProblem(rows, keys, Streams.roots(batch))
    problems["several"]._rows_apart = False
    calls = {name: (lambda p=problem: attention(q, k, v, p).out) for name, problem in problems.items()}
    apart = float((calls["one sequence"]().float() - calls["several"]().float()).abs().max())
    if not apart < 0.02:
        raise AssertionError(f"outputs of the two plans differ by {apart:.2g}")
    if device == "cuda":
        calls = {name: captured(call) for name, call in calls.items()}
    seconds = side_by_side(calls, ATTENTION)
    moved = 2 * k.numel() * k.element_size()
    return {name: {"seconds": found, "bytes_per_second": moved / found} for name, found in seconds.items()}


class Decode:
    def __init__(
        self,
        report: Report,
        model: avflow.Model,
        embeds: torch.Tensor,
        evict: Callable[[str], contextlib.AbstractContextManager],
        name: str,
    ) -> None:
        """embeds [1, N, D]; evict(decode) opens a block."""
        self.report, self.model, self.embeds, self.evict, self.name = report, model, embeds, evict, name
        self.clock = Clock(report.device)
        self.results: list[dict] = []
        self.logits: dict[tuple[str, int], torch.Tensor] = {}  # of the first step, eager
        self.weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())

    def context(self, who: str) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if who == "plain" else self.evict(who)

    def token(self, batch: int) -> dict[str, torch.Tensor]:
        device = self.model.device
        return {
            "input_ids": torch.full((batch, 1), 7, device=device),
            "position_ids": torch.full((batch, 1), self.embeds.shape[1], device=device),
        }

    def read(self, static: bool, batch: int) -> Any:
        """The prompt's cache for the batch; within the candidate's block."""
        from transformers import StaticCache

        cache = StaticCache(config=self.model.config, max_cache_len=self.embeds.shape[1] + ROOM) if static else None
        how = {} if cache is None else {CACHE: cache}
        out = self.model.hf(inputs_embeds=self.embeds, use_cache=True, logits_to_keep=1, **how)
        return widen(cache_of(out), batch)

    @torch.no_grad()
    def eager(self, who: str, batch: int, result: dict) -> None:
        with self.context(who):
            cache, inputs = self.read(False, batch), self.token(batch)
            held = cache_bytes(cache)

            def steps() -> None:
                for at in range(STEPS):
                    out = self.model.hf(**inputs, **{CACHE: cache}, use_cache=True)
                    if (who, batch) not in self.logits and not at:
                        self.logits[who, batch] = out.logits[:, -1].float()
                take_back(cache, STEPS)

            seconds = self.clock.best(steps, TURNS)
        result["kv_bytes"][who] = held
        self.note(result, f"{who}, eager", seconds)

    @torch.no_grad()
    def graph(self, who: str, batch: int, result: dict) -> None:
        torch._dynamo.reset()
        with self.context(who):
            cache, inputs = self.read(True, batch), self.token(batch)
            self.model.hf(**inputs, **{CACHE: cache}, use_cache=True)  # prepares the plan that compiled steps use
            take_back(cache, 1)
            step = torch.compile(self.model.hf, backend="eager", fullgraph=True, dynamic=False)
            run = replayed(lambda: step(**inputs, **{CACHE: cache}, use_cache=True), cache, self.model.device)
            logits = run().logits[:, -1].float()
            take_back(cache, 1)
            expected = self.logits.get((who, batch))
            if expected is not None:
                apart = float((logits - expected).norm() / expected.norm())
                result["graph_logits_apart"][who] = apart
                if not apart < TOLERANCE:
                    raise AssertionError(f"logits of the graph are {apart:.3f} from those of the same step run eagerly")

            def steps() -> None:
                for _ in range(STEPS):
                    run()
                take_back(cache, STEPS)

            seconds = self.clock.best(steps, TURNS)
        self.note(result, f"{who}, graph", seconds)

    @torch.no_grad()
    def attention(self, batch: int, result: dict) -> None:
        model = self.model
        heads = model.n_heads, model.n_kv_heads, model.head_dim
        result["attention"] = row_tiles(batch, self.embeds.shape[1], heads, model.device.type, self.embeds.dtype)
        for name, found in result["attention"].items():
            rate = found["bytes_per_second"] / 1e12
            print(f"    batch {batch}, a layer, {name} a tile: {found['seconds'] * 1e6:.1f} us, {rate:.2f} TB/s")

    def note(self, result: dict, label: str, seconds: float) -> None:
        each, who = seconds / STEPS, label.split(",")[0]
        result["seconds_a_step"][label] = each
        result["tokens_per_second"][label] = result["batch"] / each
        result["peak_bytes"][label] = self.clock.peak_bytes
        # What a step must read at least: the weights, and the keys and values that are held.
        minimum = self.weights + result["kv_bytes"].get(who, 0)
        result["bytes_per_second"][label] = minimum / each
        print(
            f"    batch {result['batch']}, {label}: {each * 1e3:.2f} ms a step, {result['batch'] / each:.0f} tokens/s"
        )

    def run(self, batches: list[int], one: float) -> None:
        """batches: graphs, which take long to trace, in this order too. one: seconds of a prefill."""
        for batch in batches:
            names = ("seconds_a_step", "tokens_per_second", "bytes_per_second", "kv_bytes", "peak_bytes")
            result = {"batch": batch, "tokens": self.embeds.shape[1], "steps": STEPS, **{name: {} for name in names}}
            result |= {
                "graph_logits_apart": {},
                "graph": "CUDA graph" if self.clock.on_cuda else "compiled, no capture",
            }
            self.results.append(result)
            if batch > 1:
                label = f"{self.name}, attention of a layer at batch {batch}"
                self.report.step(label, lambda b=batch, r=result: self.attention(b, r), 2.0)
            for who in ("plain", "keep", "drop"):
                label = f"{self.name}, decode at batch {batch}, {who}, eager"
                self.report.step(label, lambda w=who, b=batch, r=result: self.eager(w, b, r), one + 10)
        for result in self.results:
            for who in ("plain", "keep"):
                label = f"{self.name}, decode at batch {result['batch']}, {who}, graph"
                self.report.step(label, lambda w=who, r=result: self.graph(w, r["batch"], r), one + TRACING)
        torch._dynamo.reset()


def replayed(call: Callable[[], Any], cache: Any, device: torch.device) -> Callable[[], Any]:
    """A compiled step as a CUDA graph; on the CPU the call itself. Leaves the cache as long as it was."""
    call()  # traces
    take_back(cache, 1)
    return call if device.type != "cuda" else captured(call, 2, lambda: take_back(cache, 1))
