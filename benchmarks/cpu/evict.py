"""Eviction against the same model without it: prefill, decode, cache bytes; peers that do it in other ways. CPU.

    python benchmarks cpu/evict [--json FILE] [--shape 12x1024x4096] [--turns 3] [--dtype float32]

Claim: what a schedule saves of the floating-point operations, it saves of the time. Random weights, random embeddings,
one process; candidates take turns and each keeps its best time. Prefill, all with a cache and logits of the last row
only:
  plain       transformers' own forward, sdpa
  no schedule the same through avflow.evict with nothing to drop: what its attention and hooks cost or save
  evict       avflow.evict
  dense mask  transformers' forward, sdpa, with a dense N x N mask in the later layers that hides the media from all
              other rows: the same numbers with nothing saved (studies do this)
  indexing    transformers' forward, sdpa, hidden states indexed by plain torch at the boundary layer
Every candidate's last logits are compared before it is timed: all but the plain one must agree.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import torch

import avflow
from avflow.models.attention import kernel_name
from avflow.models.compat import cache_argument, cache_of
from avflow.planning.savings import eviction_cost
from avflow.runtime.answering import cache_bytes
from benchmarks.lib.decoders import make_sized
from benchmarks.lib.peers import media_masked, rows_indexed
from benchmarks.lib.prompts import MEDIA, make_prompt, media_rows
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import side_by_side

CACHE = cache_argument()
STEPS = 8  # decode steps timed together
Block = Callable[[], contextlib.AbstractContextManager]  # opens what a candidate runs in


def schedules(layers: int) -> dict[str, int]:
    """{name: last layer that sees the media}"""
    return {
        "media after a third": layers // 3 - 1,
        "media after half": layers // 2 - 1,
        "media after two thirds": 2 * layers // 3 - 1,
        "media after three quarters (the study's)": round(layers * 27 / 36) - 1,
    }


class Bench:
    def __init__(self, shape: str, dtype: str) -> None:
        """shape: LAYERSxHIDDENxTOKENS; dtype: a name of torch's."""
        layers, hidden, tokens = (int(part) for part in shape.split("x"))
        self.model = make_sized(layers, hidden)
        self.model.hf.to(getattr(torch, dtype))
        self.prompt = make_prompt(self.model, tokens)
        self.embeds = self.prompt.inputs_embeds[None].to(self.model.dtype)  # [1, N, D]
        self.media = media_rows(self.prompt)
        self.shape = {"layers": layers, "hidden": hidden, "tokens": tokens, "media": int(self.media.sum())}

    @torch.no_grad()
    def prefill(self, block: Block = contextlib.nullcontext) -> Any:
        """The model's output."""
        with block():
            return self.model.hf(inputs_embeds=self.embeds, use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def decode(self, out: Any, block: Block = contextlib.nullcontext) -> None:
        """STEPS steps on the cache of a prefill, which is put back afterwards."""
        cache, token = cache_of(out), torch.tensor([[7]])
        with block():
            for _ in range(STEPS):
                self.model.hf(input_ids=token, **{CACHE: cache}, use_cache=True)
        cache.crop(-STEPS)

    def evict(self, schedule: dict[str, int], decode: str = "keep") -> Block:
        groups, items = list(self.prompt.groups), list(self.prompt.items)
        return lambda: avflow.evict(self.model, schedule, decode=decode, groups=groups, items=items)

    def blocks(self, found: dict[str, int]) -> dict[str, Block]:
        """What every candidate's prefill runs in; found: {name: last layer that sees the media}."""
        blocks: dict[str, Block] = {"plain": contextlib.nullcontext, "no schedule": self.evict({})}
        for name, after in found.items():
            steps = dict.fromkeys(MEDIA, after)
            blocks[f"evict, {name}"] = self.evict(steps)
            blocks[f"dense mask, {name}"] = lambda after=after: media_masked(self.model, self.media, after)
            blocks[f"indexing, {name}"] = lambda steps=steps: rows_indexed(self.model, self.prompt.groups, steps)
        return blocks

    def check(self, blocks: dict[str, Block]) -> None:
        """Raises AssertionError where a candidate's last logits are not those of avflow.evict, or the media's are."""
        logits = {label: self.prefill(block).logits[0, -1].float() for label, block in blocks.items()}
        limit = 1e-3 if self.model.dtype == torch.float32 else 0.1
        for label, value in logits.items():
            if ", " in label:
                apart = float((value - logits[f"evict, {label.split(', ')[-1]}"]).abs().max())
                assert apart < limit, (label, apart)
        first = next(value for label, value in logits.items() if label.startswith("evict, "))
        apart = float((logits["plain"] - first).abs().max())
        assert apart > 10 * limit, apart  # the media matter, so agreement means something

    def measure(self, found: dict[str, int], turns: int) -> list[dict[str, Any]]:
        """A line of the table for each schedule."""
        blocks = self.blocks(found)
        self.check(blocks)
        prefills = {label: (lambda block=block: self.prefill(block)) for label, block in blocks.items()}
        seconds = side_by_side(prefills, seconds=0, turns=turns)
        results = []
        for name, after in found.items():
            schedule = dict.fromkeys(MEDIA, after)
            cost = eviction_cost(self.model, avflow.EvictionSchedule(schedule), self.prompt)
            took = seconds[f"evict, {name}"]
            saved = {base: 1 - took / seconds[base] for base in ("plain", "no schedule")}
            results.append(
                {
                    "schedule": name,
                    "after": after,
                    "prefill_seconds": {
                        "plain": seconds["plain"],
                        "no schedule": seconds["no schedule"],
                        **{who: seconds[f"{who}, {name}"] for who in ("evict", "dense mask", "indexing")},
                    },
                    "flops_saved": cost["flops_saved"],
                    "saved_of_plain": saved["plain"],
                    "saved_of_no_schedule": saved["no schedule"],
                    "share_of_ideal": saved["no schedule"] / cost["flops_saved"],
                    "dense_mask_over_evict": seconds[f"dense mask, {name}"] / took,
                    "indexing_over_evict": seconds[f"indexing, {name}"] / took,
                    **self.decoding(schedule),
                }
            )
        return results

    def decoding(self, schedule: dict[str, int]) -> dict[str, Any]:
        """Seconds of a decode step, and bytes of the cache, by candidate."""
        blocks = {
            "plain": contextlib.nullcontext,
            "keep": self.evict(schedule),
            "drop": self.evict(schedule, "drop"),
        }
        outs = {label: self.prefill(block) for label, block in blocks.items()}
        held = {label: cache_bytes(cache_of(out)) for label, out in outs.items()}
        runs = {label: lambda x=label: self.decode(outs[x], blocks[x]) for label in blocks}
        seconds = side_by_side(runs, seconds=2)
        return {
            "decode_step_seconds": {label: value / STEPS for label, value in seconds.items()},
            "kv_bytes": held,
        }


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        f"{'schedule':<44}{'FLOPs':>8}{'prefill':>9}{'of ideal':>10}{'vs sdpa':>9}{'dense':>8}{'indexing':>10}"
        f"{'decode keep/drop':>19}{'KV keep/drop':>16}"
    ]
    for r in results:
        step, kv = r["decode_step_seconds"], r["kv_bytes"]
        decode = f"{step['keep'] / step['plain']:.2f} / {step['drop'] / step['plain']:.2f}"
        cache = f"{kv['keep'] / kv['plain']:.2f} / {kv['drop'] / kv['plain']:.2f}"
        lines.append(
            f"{r['schedule']:<44}{-100 * r['flops_saved']:>7.1f}%{-100 * r['saved_of_no_schedule']:>8.1f}%"
            f"{100 * r['share_of_ideal']:>9.0f}%{-100 * r['saved_of_plain']:>8.1f}%{r['dense_mask_over_evict']:>7.2f}x"
            f"{r['indexing_over_evict']:>9.2f}x{decode:>19}{cache:>16}"
        )
    lines.append(
        "prefill: against avflow without a schedule; of ideal: its saving over the FLOP saving, goal 95 %; vs sdpa: "
        "against transformers' own forward; dense, indexing: these peers' time over ours; decode, KV: over plain."
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    parser.add_argument("--shape", default="12x1024x4096", metavar="LAYERSxHIDDENxTOKENS")
    parser.add_argument("--turns", type=int, default=3, help="in each, every candidate runs to warm up and is timed")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args(arguments)
    bench = Bench(args.shape, args.dtype)
    print(f"{machine()}, {args.dtype}, kernel {kernel_name(torch.device('cpu'))}, {bench.shape}")
    results = bench.measure(schedules(bench.shape["layers"]), args.turns)
    print(table(results))
    write_json(args.json, {"machine": machine(), "dtype": args.dtype, "shape": bench.shape, "results": results})
