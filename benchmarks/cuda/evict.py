"""`python benchmarks/evict.py --device cuda --shape 3b 7b`: eviction on decoders of Qwen2.5's sizes, in bf16.

For each shape and length, in one process; candidates take turns and each keeps its best time, block opened and labels
read inside of what is timed. Prefill, all with a cache and logits of the last row only:
  plain BACKEND       transformers' own forward, sdpa with that backend
  no schedule         the same through avflow.evict with nothing to drop
  evict, SCHEDULE     avflow.evict
  indexing, SCHEDULE  transformers' forward, sdpa flash, rows indexed by plain torch at the boundaries: what it computes
                      is what avflow.evict must compute, so it is the check too
Then decoding: decode_cuda.py. Each step's failure or omission is told in the file, and the next step runs.
Tried on the CPU with the tiny shape.
"""

from __future__ import annotations

import contextlib

import torch
from decode_cuda import Decode
from device import BACKENDS, Clock, Report, ceilings, make_model, peers, shape_facts
from sweep import make_prompt
from torch.nn.attention import sdpa_kernel

import avflow
from avflow.models.compat import cache_of
from avflow.planning.savings import eviction_cost
from avflow.runtime.answering import cache_bytes

LENGTHS = (16384, 8192, 32768)
QUESTION = 50  # tokens of question and options
ROUNDS = 1  # of all candidates in turns, after each has had a warm-up and a first timed run
# Relative difference (L2) of last logits: two attentions that round to bf16 at other places, over all layers.
TOLERANCE = 0.05
GUESSED_FLOPS = 250e12  # a second, until a plain forward has been timed


def schedules(layers: int) -> dict[str, dict[str, int]]:
    """Name -> last layer that sees each group. The study's is of 36 layers: media after 26, question after 29."""

    def after(share: float, also: dict[str, int] | None = None) -> dict[str, int]:
        last = round(share * layers) - 1
        return {"video": last, "audio": last, **(also or {})}

    study = after(27 / 36, {"question_text": round(layers * 30 / 36) - 1})
    thirds = {"a third": after(1 / 3), "half": after(1 / 2), "two thirds": after(2 / 3)}
    return {"the study's": study, **{f"media after {name}": steps for name, steps in thirds.items()}}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@contextlib.contextmanager
def indexing(model: avflow.Model, groups: list[str], schedule: dict[str, int]):
    """Drops rows before the layers behind a step, by plain torch; the positions are computed before."""
    left = torch.arange(len(groups))
    handles = []
    keep = None  # what is left of the prompt's positions
    for index, layer in enumerate(model.layers):
        gone = {group for group, after in schedule.items() if after == index - 1}
        among = None
        if gone:
            among = torch.tensor([groups[at] not in gone for at in left.tolist()]).nonzero()[:, 0]
            left = left[among]
            among, keep = among.to(model.device), left.to(model.device)
        if keep is None:
            continue

        def hook(module, args, kwargs, among=among, keep=keep):
            kwargs = dict(kwargs)
            if among is not None:
                args = (args[0][:, among], *args[1:])
            cos, sin = kwargs["position_embeddings"]
            kwargs["position_embeddings"] = (cos[:, keep], sin[:, keep])
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = kwargs["position_ids"][:, keep]
            return args, kwargs

        handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Case:
    """One shape at one length; `result` grows step by step."""

    def __init__(self, report: Report, model: avflow.Model, shape: str, tokens: int) -> None:
        self.report, self.model, self.clock = report, model, Clock(report.device)
        self.name = f"{shape}, {tokens} tokens"
        self.prompt = make_prompt(model, tokens, QUESTION)
        self.groups, self.items = list(self.prompt.groups), list(self.prompt.items)
        self.embeds = self.prompt.inputs_embeds[None].to(model.device, model.dtype)  # [1, N, D]
        # A direction that all media share: thousands of random values would average to nothing, and dropping them too.
        media = torch.tensor([g in ("video", "audio") for g in self.groups], device=model.device)
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

    def step(self, name: str, run, seconds: float | None):
        return self.report.step(f"{self.name}, {name}", run, seconds)

    def evict(self, steps: dict[str, int], decode: str = "keep"):
        return avflow.evict(self.model, steps, decode=decode, groups=self.groups, items=self.items)

    def contexts(self) -> dict:
        """What a prefill runs in, by candidate."""
        flash = BACKENDS["flash"]

        @contextlib.contextmanager
        def indexed(steps):
            with sdpa_kernel(flash), indexing(self.model, self.groups, steps):
                yield

        found = {f"plain {b}": lambda b=b: sdpa_kernel(BACKENDS[b]) for b in peers(self.report.device)}
        found["no schedule"] = lambda: self.evict({})
        for name, steps in self.schedules.items():
            found[f"evict, {name}"] = lambda steps=steps: self.evict(steps)
            found[f"indexing, {name}"] = lambda steps=steps: indexed(steps)
        return found

    @torch.no_grad()
    def prefill(self, context):
        with context():
            return self.model.hf(inputs_embeds=self.embeds, use_cache=True, logits_to_keep=1)

    def first(self, label: str, context) -> bool:
        """Warms up; keeps the logits, the cache's size and a first time."""
        out = self.prefill(context)
        self.logits[label] = out.logits[0, -1].float()
        self.result["kv_bytes"][label] = cache_bytes(cache_of(out))
        del out
        self.time(label, context)
        return True

    def time(self, label: str, context) -> None:
        seconds, best = self.clock(lambda: self.prefill(context)), self.result["prefill_seconds"]
        best[label] = min(best.get(label, float("inf")), seconds)
        self.result["peak_bytes"][label] = self.clock.peak_bytes

    def turns(self, contexts: dict) -> None:
        for _ in range(ROUNDS):
            for label, context in contexts.items():
                self.time(label, context)

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
        for label, context in self.contexts().items():
            if self.step(label, lambda label=label, context=context: self.first(label, context), one):
                alive[label] = context
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


def main(
    device: str, shapes: list[str], lengths: list[int] | None, path: str | None, seconds: float, batches: list[int]
) -> int:
    """0 where every step that ran was right. Decoding is measured at the shortest length."""
    report = Report(device, path, seconds)
    report.data["ceilings"] = report.step("ceilings", lambda: ceilings(device))
    lengths = lengths or list(LENGTHS)
    for index, shape in enumerate(shapes):
        report.share(len(shapes) - index)
        model = report.step(f"{shape}, model", lambda s=shape: make_model(s, device), 10 if device == "cuda" else 0)
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
