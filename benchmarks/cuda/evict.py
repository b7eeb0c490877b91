"""Eviction on decoders of Qwen2.5's sizes, on a CUDA device, bf16: prefill, cache and decoding.

    python benchmarks cuda/evict [--shape 3b 7b] [--tokens 8192 16384] [--batch 1 8 32] [--seconds 150] [--json FILE]

Claim: what a schedule saves of the floating-point operations, it saves of the time. For each shape and length, in one
process; candidates take turns and each keeps its best time, block opened and labels read inside of what is timed.
Prefill, all with a cache and logits of the last row only:
  plain BACKEND       transformers' own forward, sdpa with that backend
  no schedule         the same through avflow.evict with nothing to drop
  evict, SCHEDULE     avflow.evict
  indexing, SCHEDULE  transformers' forward, sdpa flash, rows indexed by plain torch at the boundaries: what it computes
                      is what avflow.evict must compute, so it is the check too
Then decoding: cuda/decode.py. A step that fails or is left out has its reason in the file, and the next step runs. The
tests run it on the CPU: --device cpu --shape tiny.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel

import avflow
from avflow.models.compat import cache_of
from avflow.planning.savings import eviction_cost
from avflow.runtime.answering import cache_bytes
from benchmarks.cuda.decode import Decode
from benchmarks.lib.decoders import make_named, shape_facts
from benchmarks.lib.device import BACKENDS, ceilings, clean_backends
from benchmarks.lib.options import device_parser
from benchmarks.lib.peers import rows_indexed
from benchmarks.lib.prompts import MEDIA, make_prompt, media_rows
from benchmarks.lib.report import Report
from benchmarks.lib.timing import Clock

LENGTHS = (16384, 8192, 32768)
QUESTION = 50  # tokens of question and options
ROUNDS = 1  # of all candidates in turns, after each has had a warm-up and a first timed run
# Relative difference (L2) of last logits: two attentions that round to bf16 at other places, over all layers.
TOLERANCE = 0.05
GUESSED_FLOPS = 250e12  # per second, until a plain forward has been timed
Block = Callable[[], contextlib.AbstractContextManager]  # opens what a candidate runs in


def schedules(layers: int) -> dict[str, dict[str, int]]:
    """{name: {group: last layer that sees it}}. The study's is of 36 layers: media after 26, question after 29."""

    def after(share: float, also: dict[str, int] | None = None) -> dict[str, int]:
        last = round(share * layers) - 1
        return dict.fromkeys(MEDIA, last) | (also or {})

    study = after(27 / 36, {"question_text": round(layers * 30 / 36) - 1})
    thirds = {"a third": after(1 / 3), "half": after(1 / 2), "two thirds": after(2 / 3)}
    return {"the study's": study, **{f"media after {name}": steps for name, steps in thirds.items()}}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


class Case:
    """One shape at one length; `result` grows step by step."""

    def __init__(self, report: Report, model: avflow.Model, shape: str, tokens: int) -> None:
        self.report, self.model, self.clock = report, model, Clock(report.device)
        self.name = f"{shape}, {tokens} tokens"
        self.prompt = make_prompt(model, tokens, QUESTION)
        self.groups, self.items = list(self.prompt.groups), list(self.prompt.items)
        self.embeds = self.prompt.inputs_embeds[None].to(model.device, model.dtype)  # [1, N, D]
        # A direction that all media share: thousands of random values would average to nothing, and dropping them too.
        media = media_rows(self.prompt, model.device)
        self.embeds[:, media] += 2 * self.embeds[:, :1]
        self.schedules = schedules(model.n_layers)
        self.result = {"shape": {**shape_facts(shape, tokens), "question": QUESTION, "media": int(media.sum())}}
        self.result |= {"prefill_seconds": {}, "peak_bytes": {}, "kv_bytes": {}, "schedules": {}}
        report.data["results"].append(self.result)
        self.logits: dict[str, torch.Tensor] = {}
        self.costs = {
            name: eviction_cost(model, avflow.EvictionSchedule(steps), self.prompt)
            for name, steps in self.schedules.items()
        }
        self.clean_flops = next(iter(self.costs.values()))["clean_flops"]

    def step(self, name: str, run: Callable[[], Any], seconds: float | None) -> Any:
        return self.report.step(f"{self.name}, {name}", run, seconds)

    def evict(self, steps: dict[str, int], decode: str = "keep") -> contextlib.AbstractContextManager:
        return avflow.evict(self.model, steps, decode=decode, groups=self.groups, items=self.items)

    def blocks(self) -> dict[str, Block]:
        """What a prefill runs in, by candidate."""
        flash = BACKENDS["flash"]

        @contextlib.contextmanager
        def indexed(steps: dict[str, int]) -> Iterator[None]:
            with sdpa_kernel(flash), rows_indexed(self.model, self.groups, steps):
                yield

        found: dict[str, Block] = {
            f"plain {b}": lambda b=b: sdpa_kernel(BACKENDS[b]) for b in clean_backends(self.report.device)
        }
        found["no schedule"] = lambda: self.evict({})
        for name, steps in self.schedules.items():
            found[f"evict, {name}"] = lambda steps=steps: self.evict(steps)
            found[f"indexing, {name}"] = lambda steps=steps: indexed(steps)
        return found

    @torch.no_grad()
    def prefill(self, block: Block) -> Any:
        """The model's output."""
        with block():
            return self.model.hf(inputs_embeds=self.embeds, use_cache=True, logits_to_keep=1)

    def first(self, label: str, block: Block) -> bool:
        """Warms up; keeps the logits, the cache's size and a first time."""
        out = self.prefill(block)
        self.logits[label] = out.logits[0, -1].float()
        self.result["kv_bytes"][label] = cache_bytes(cache_of(out))
        del out
        self.time(label, block)
        return True

    def time(self, label: str, block: Block) -> None:
        seconds, best = self.clock(lambda: self.prefill(block)), self.result["prefill_seconds"]
        best[label] = min(best.get(label, float("inf")), seconds)
        self.result["peak_bytes"][label] = self.clock.peak_bytes

    def turns(self, blocks: dict[str, Block]) -> None:
        for _ in range(ROUNDS):
            for label, block in blocks.items():
                self.time(label, block)

    def savings(self) -> None:
        best = self.result["prefill_seconds"]
        for label, seconds in best.items():
            print(f"    {seconds * 1e3:9.1f} ms  {label}")
        for name, steps in self.schedules.items():
            took, cost = best.get(f"evict, {name}"), self.costs[name]
            if took is None:
                continue
            entry = self.result["schedules"][name] = {"steps": steps, "flops_saved": cost["flops_saved"]}
            entry["kv_saved"] = cost["kv_saved"]
            entry["saved_of"] = {
                base: 1 - took / best[base] for base in best if base.startswith("plain") or base == "no schedule"
            }
            entry["share_of_ideal"] = {base: saved / cost["flops_saved"] for base, saved in entry["saved_of"].items()}
            if f"indexing, {name}" in best:
                entry["indexing_over_evict"] = best[f"indexing, {name}"] / took
            shares = ", ".join(f"{100 * s:.0f} % of ideal over {b}" for b, s in entry["share_of_ideal"].items())
            print(f"    {name}: {100 * cost['flops_saved']:.1f} % of the FLOPs saved; {shares}")

    def check(self) -> None:
        """The numbers that eviction must give, and that it changes something. All differences are kept."""
        plain = next((self.logits[label] for label in self.logits if label.startswith("plain")), None)
        found = self.result["logits_apart"] = {}
        wrong = []
        if plain is not None and "no schedule" in self.logits:
            found["no schedule, plain"] = relative(self.logits["no schedule"], plain)
            if not found["no schedule, plain"] < TOLERANCE:
                wrong.append("no schedule")
        for name in self.schedules:
            ours, theirs = (self.logits.get(f"{who}, {name}") for who in ("evict", "indexing"))
            if ours is None or theirs is None:
                continue
            apart = found[name] = {"indexing": relative(ours, theirs)}
            if plain is not None:
                apart["plain"] = relative(ours, plain)
            if not apart["indexing"] < min(TOLERANCE, apart.get("plain", 1.0) / 2):
                wrong.append(name)
        print(f"    logits apart: {found}")
        if wrong:
            raise AssertionError(f"logits differ too much from their peer's: {', '.join(wrong)}; see logits_apart")

    def drops(self) -> None:
        for name, steps in self.schedules.items():
            out = self.prefill(lambda steps=steps: self.evict(steps, "drop"))
            self.result["kv_bytes"][f"drop, {name}"] = cache_bytes(cache_of(out))
            del out

    def prefills(self) -> None:
        one = self.clean_flops / GUESSED_FLOPS
        alive = {}
        for label, block in self.blocks().items():
            if self.step(label, lambda label=label, block=block: self.first(label, block), one):
                alive[label] = block
        self.step("agreement", self.check, None)
        again = ROUNDS * sum(self.result["prefill_seconds"].values())
        self.step("prefill in turns", lambda: self.turns(alive), again)
        self.step("savings", self.savings, None)
        self.step("cache after drop", self.drops, again / 3)

    def decode(self, batches: list[int]) -> None:
        steps = self.schedules["media after half"]
        decode = Decode(self.report, self.model, self.embeds, lambda how: self.evict(steps, how), self.name)
        self.result["decode"] = {"schedule": "media after half", "batches": decode.results}
        decode.run(batches, self.clean_flops / GUESSED_FLOPS)


def measure(
    device: str,
    shapes: Sequence[str],
    lengths: Sequence[int],
    path: str | None,
    seconds: float,
    batches: Sequence[int],
) -> int:
    """0 where every step that ran was right. Decoding is measured at the shortest length."""
    report = Report(device, path, seconds)
    report.data["ceilings"] = report.step("ceilings", lambda: ceilings(device))
    for index, shape in enumerate(shapes):
        report.share(len(shapes) - index)
        model = report.step(f"{shape}, model", lambda s=shape: make_named(s, device), 10 if device == "cuda" else 0)
        if model is None:
            continue
        shortest = None
        for tokens in lengths:
            print(f"{shape}, {tokens} tokens")
            case = report.step(
                f"{shape}, {tokens} tokens, prompt", lambda s=shape, n=tokens, m=model: Case(report, m, s, n)
            )
            if case is not None:
                case.prefills()
                shortest = case if tokens == min(lengths) else shortest
            del case
        if shortest is not None and batches:
            shortest.decode(batches)
        del shortest
        del model
    return report.finish()


def main(arguments: list[str] | None = None) -> int:
    parser = device_parser(__doc__, LENGTHS)
    parser.add_argument("--batch", type=int, nargs="*", default=(1, 8, 32), help="of decoding")
    args = parser.parse_args(arguments)
    return measure(args.device, args.shape, args.tokens, args.json, args.seconds, args.batch)
