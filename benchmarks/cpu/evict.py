"""Eviction against the same model without it: prefill, decode, cache bytes; peers that do it in other ways.

    python benchmarks/evict.py [--json FILE] [--shape 12x1024x4096] [--rounds 3] [--dtype float32]
    python benchmarks/evict.py --device cuda --shape 3b 7b --tokens 8192 16384 32768 --seconds 150 --json FILE
                                                 decoders of Qwen2.5's sizes in bf16: evict_cuda.py

Random weights, random embeddings, one process; candidates take turns and each keeps its best time. Prefill, all with a
cache and logits of the last row only:
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
import sys
import time

import torch
from sweep import make_model, make_prompt
from timing import machine, side_by_side, write_json

import avflow
from avflow.models.attention import kernel_name
from avflow.models.compat import cache_argument, cache_of
from avflow.planning.savings import eviction_cost
from avflow.runtime.answering import cache_bytes

CACHE = cache_argument()

STEPS = 8  # decode steps timed together


def schedules(layers: int) -> dict[str, int]:
    """Name -> last layer that sees the media."""
    return {
        "media after a third": layers // 3 - 1,
        "media after half": layers // 2 - 1,
        "media after two thirds": 2 * layers // 3 - 1,
        "media after three quarters (the study's)": round(layers * 27 / 36) - 1,
    }


@contextlib.contextmanager
def hooks(pairs):
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def dense_mask(model: avflow.Model, media: torch.Tensor, after: int):
    """Hides the media (bool [N]) from all other rows in the layers above `after`; the mask is N x N, made once."""
    n = len(media)
    open_ = torch.ones(n, n, dtype=torch.bool, device=media.device).tril()
    open_ &= ~(media[None, :] & ~media[:, None])
    mask = open_[None, None]  # [1, 1, N, N]

    def hook(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask}

    return hooks([(layer, hook) for layer in model.layers[after + 1 :]])


def indexing(model: avflow.Model, media: torch.Tensor, after: int):
    """Drops the media's rows (bool [N]) before layer after + 1."""
    keep = (~media).nonzero()[:, 0]

    def gather(module, args, kwargs, hidden: bool):
        cos, sin = kwargs["position_embeddings"]
        kwargs = {**kwargs, "position_embeddings": (cos[:, keep], sin[:, keep])}
        return ((args[0][:, keep], *args[1:]) if hidden else args), kwargs

    first, *later = model.layers[after + 1 :]
    pairs = [(first, lambda m, a, k: gather(m, a, k, True))]
    return hooks(pairs + [(layer, lambda m, a, k: gather(m, a, k, False)) for layer in later])


class Bench:
    def __init__(self, shape: str, device: str, dtype: str) -> None:
        layers, hidden, tokens = (int(part) for part in shape.split("x"))
        self.model = make_model(layers, hidden)
        self.model.hf.to(device, getattr(torch, dtype))
        self.prompt = make_prompt(self.model, tokens)
        self.embeds = self.prompt.inputs_embeds[None].to(device, self.model.dtype)
        self.media = torch.tensor([g in ("video", "audio") for g in self.prompt.groups], device=device)
        self.shape = {"layers": layers, "hidden": hidden, "tokens": tokens, "media": int(self.media.sum())}

    @torch.no_grad()
    def prefill(self, context=contextlib.nullcontext):
        with context():
            out = self.model.hf(inputs_embeds=self.embeds, use_cache=True, logits_to_keep=1)
            if self.embeds.is_cuda:
                torch.cuda.synchronize()
        return out

    @torch.no_grad()
    def decode(self, out, context=contextlib.nullcontext) -> None:
        """STEPS steps on a cache that is put back afterwards."""
        cache, token = cache_of(out), torch.tensor([[7]], device=self.embeds.device)
        with context():
            for _ in range(STEPS):
                self.model.hf(input_ids=token, **{CACHE: cache}, use_cache=True)
            if self.embeds.is_cuda:
                torch.cuda.synchronize()
        cache.crop(-STEPS)

    def evict(self, schedule: dict[str, int], decode: str = "keep"):
        groups, items = list(self.prompt.groups), list(self.prompt.items)
        return lambda: avflow.evict(self.model, schedule, decode=decode, groups=groups, items=items)

    def prefills(self, found: dict[str, int], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
        """Best seconds of every candidate, in turns; and how far its logits are from those of avflow.evict."""
        contexts = {"plain": contextlib.nullcontext, "no schedule": self.evict({})}
        for name, after in found.items():
            contexts[f"evict, {name}"] = self.evict({"video": after, "audio": after})
            contexts[f"dense mask, {name}"] = lambda after=after: dense_mask(self.model, self.media, after)
            contexts[f"indexing, {name}"] = lambda after=after: indexing(self.model, self.media, after)
        best, logits = dict.fromkeys(contexts, float("inf")), {}
        for _ in range(rounds):
            for label, context in contexts.items():
                began = time.perf_counter()
                out = self.prefill(context)
                best[label] = min(best[label], time.perf_counter() - began)
                logits[label] = out.logits[0, -1].float()
                del out  # its cache
        apart = {}
        for label, value in logits.items():
            name = label.split(", ")[-1] if ", " in label else next(iter(found))
            apart[label] = float((value - logits[f"evict, {name}"]).abs().max())
        return best, apart

    def measure(self, found: dict[str, int], rounds: int) -> list[dict]:
        seconds, apart = self.prefills(found, rounds)
        limit = 1e-3 if self.model.dtype == torch.float32 else 0.1
        assert all(value < limit for label, value in apart.items() if ", " in label), apart
        assert apart["plain"] > 10 * limit, apart  # the media matter, so agreement means something
        results = []
        for name, after in found.items():
            schedule = {"video": after, "audio": after}
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
                    **self.decode_part(schedule, rounds),
                }
            )
        return results

    def decode_part(self, schedule: dict[str, int], rounds: int) -> dict:
        contexts = {
            "plain": contextlib.nullcontext,
            "keep": self.evict(schedule),
            "drop": self.evict(schedule, "drop"),
        }
        outs = {label: self.prefill(context) for label, context in contexts.items()}
        held = {label: cache_bytes(cache_of(out)) for label, out in outs.items()}
        runs = {label: lambda x=label: self.decode(outs[x], contexts[x]) for label in contexts}
        seconds = side_by_side(runs, seconds=2, least=3)
        return {
            "decode_step_seconds": {label: value / STEPS for label, value in seconds.items()},
            "kv_bytes": held,
        }


def table(results: list[dict]) -> str:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    parser.add_argument("--shape", nargs="+", metavar="LAYERSxHIDDENxTOKENS", help="default 12x1024x4096")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, nargs="+", help="of the shapes 3b and 7b")
    parser.add_argument("--batch", type=int, nargs="*", default=(1, 8, 32), help="of decoding, shapes 3b and 7b")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all steps of the shapes 3b and 7b")
    args = parser.parse_args()
    shapes = args.shape or (("3b", "7b") if args.device == "cuda" else ("12x1024x4096",))
    if args.device == "cuda" or not shapes[0][0].isdigit() or "x" not in shapes[0]:
        import evict_cuda

        sys.exit(evict_cuda.main(args.device, shapes, args.tokens, args.json, args.seconds, list(args.batch)))
    if len(shapes) > 1:
        parser.error("one LAYERSxHIDDENxTOKENS at a time")
    bench = Bench(shapes[0], args.device, args.dtype)
    print(f"{machine()}, {args.dtype}, kernel {kernel_name(torch.device(args.device))}, {bench.shape}")
    found = schedules(bench.shape["layers"])
    results = bench.measure(found, args.rounds)
    print(table(results))
    write_json(args.json, {"machine": machine(), "dtype": args.dtype, "shape": bench.shape, "results": results})


if __name__ == "__main__":
    main()
