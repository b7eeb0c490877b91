"""The attention op against torch's, on a CUDA device, bf16.

    python benchmarks cuda/attention [--json FILE] [--no-flex] [--seconds 600]

Claim: with cuts and without, the op takes at most 1.1 times what torch's best kernel takes without cuts. Peers: SDPA,
each pinned to one backend and given keys and values with the heads it likes; FlashAttention-4 where flash-attn-4 is
installed, by its own function and, with cuts, as FlexAttention's backend on the blocks of avflow's plan; FlexAttention;
avflow's own op without the cuts. What must be compiled for a minute comes last. Times are the best of turns of
blocks of calls; a peer that fails leaves its error. Measured on an H200: benchmarks/results/h200/attention.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, attention
from avflow_ext._load import _C
from avflow_ext.device import cuda_kernel
from benchmarks.lib.device import BACKENDS, ceilings
from benchmarks.lib.graphs import captured
from benchmarks.lib.layouts import (
    OTHER_FRAMES,
    QUESTION,
    VIDEO,
    VIDEO_TO_QUESTION,
    av_tokens,
    dense_mask,
    frames,
    one_row,
    open_edges,
    packed_streams,
)
from benchmarks.lib.operands import Operands
from benchmarks.lib.report import Report
from benchmarks.lib.timing import best_times

SHAPES = {"3B": (16, 2, 128), "7B": (28, 4, 128)}  # heads, kv heads, d of Qwen2.5
FLASH, CUDNN, MATH = (BACKENDS[name] for name in ("flash", "cuDNN", "math"))
LENGTHS = (4096, 8192, 16384, 32768)
DECODE_KEYS = 16384
COMPILING = 30.0  # seconds of a peer's compilation
COLD_COPIES = 12  # of the decode step's keys and values: 200 MB at 3B shapes, more than any L2


def operands(rows: int, keys: int, size: str) -> Operands:
    """size: of SHAPES."""
    return Operands(rows, keys, SHAPES[size], "cuda", torch.bfloat16)


def open_tiles(problem: AttentionProblem, ratio: int) -> int:
    kernel = cuda_kernel(torch.cuda.current_device(), len(problem.rows), ratio, len(problem.streams))
    return int((_C.tile_kinds(problem.packed(ratio, device_type=kernel).numpy()) > 0).sum())


class Cases:
    """Measures each case and prints it; the file of `report` holds it at once."""

    def __init__(self, report: Report, seconds: float) -> None:
        """seconds: of turns for each case."""
        self.report, self.seconds = report, seconds
        self.found: dict[str, Any] = {}
        report.data["cases"] = self.found

    def add(
        self,
        name: str,
        candidates: dict[str, Callable[[], object]],
        peer: str,
        goal: str,
        factor: float = 1.0,
        flops: float = 0.0,
    ) -> None:
        """factor: share of the peer's work that this case has; flops: of our call, for its rate."""
        times, errors = best_times(candidates, self.seconds)
        case = {"seconds": times, "errors": errors, "peer": peer, "goal": goal, "factor": factor}
        ours = times.get("avflow")
        if ours and peer in times:
            case["ratio"] = ours / times[peer] / factor
        if ours and flops:
            case["tflops"] = flops / ours / 1e12
        self.found[name] = case
        print(f"{name} (goal {goal})" + (f", {case['tflops']:.0f} TFLOP/s" if "tflops" in case else ""))
        for other, seconds in times.items():
            share = f"{ours / seconds:6.2f} x" if ours and other != "avflow" else f"{'':8}"
            print(f"    {seconds * 1e6:10.1f} us  {share}  {other}")
        for other, text in errors.items():
            print(f"    {'failed':>10}               {other}: {text}")
        self.report.save()


def whole_prompts(cases: Cases, n: int, size: str, flash4: bool = False) -> None:
    """Prefill of n tokens: without cuts, video -> question, other frames cut. flash4: beside FlashAttention-4."""
    heads, kv_heads, d = SHAPES[size]
    ratio = heads // kv_heads
    case, tokens = operands(n, n, size), av_tokens(n)
    plain = AttentionProblem(tokens)
    flops = 4.0 * d * heads * n * (n + 1) / 2
    candidates = {
        "avflow": case.ours(plain),
        "sdpa flash": case.sdpa(backend=FLASH),
        "sdpa cuDNN": case.sdpa(backend=CUDNN),
    }
    if flash4:
        candidates["FlashAttention-4"] = case.flash4()
    difference = (candidates["avflow"]().out - candidates["sdpa flash"]()[0].transpose(0, 1)).abs().max()
    print(f"largest difference from sdpa flash: {float(difference):.1e}")
    cases.add(f"{size}, {n} tokens, no cuts", candidates, "sdpa flash", "<= 1", flops=flops)

    cut = AttentionProblem(tokens, cuts=[VIDEO_TO_QUESTION])
    mask = dense_mask(tokens, VIDEO, QUESTION, "cuda")
    candidates = {"avflow": case.ours(cut), "avflow, no cuts": case.ours(plain)}
    if n <= 8192:  # at 16k it holds several [heads, n, n] matrices of 17 GB
        candidates["sdpa math, dense mask"] = case.sdpa(mask, MATH)
    candidates["sdpa cuDNN, dense mask"] = case.sdpa(mask, CUDNN)
    candidates["sdpa efficient, dense mask"] = case.sdpa(mask, BACKENDS["efficient"])
    cases.add(f"{size}, {n} tokens, video -> question", candidates, "avflow, no cuts", "<= 1")
    del mask

    film = frames(n, 256)
    cross = AttentionProblem(film, cuts=[OTHER_FRAMES])
    whole = AttentionProblem(film)
    share = open_tiles(cross, ratio) / open_tiles(whole, ratio)
    cases.add(
        f"{size}, {n} tokens, other frames cut, 256-token frames",
        {"avflow": case.ours(cross), "avflow, no cuts": case.ours(whole), "a fresh copy of q": case.q.clone},
        "avflow, no cuts",
        f"near 1 x open tiles ({share:.3f})",
        factor=share,
    )


def compiled_peers(cases: Cases, n: int, flash4: bool) -> None:
    """A cut beside what is compiled for its mask; a peer whose compilation fails leaves its error, and the rest run."""
    heads, kv_heads, _ = SHAPES["3B"]
    case, tokens = operands(n, n, "3B"), av_tokens(n)
    cut = AttentionProblem(tokens, cuts=[VIDEO_TO_QUESTION])
    name = f"3B, {n} tokens, video -> question, compiled peers"
    ours = case.ours(cut)
    candidates, expected = {"avflow": ours}, ours().out.transpose(0, 1)[None]  # [1, heads, n, d]
    ways: dict[str, tuple[AttentionProblem | None, str | None]] = {"FlexAttention": (None, None)}
    ways["FlexAttention, blocks of avflow's plan"] = (cut, None)
    if flash4:
        ways["FlashAttention-4, blocks of avflow's plan"] = (cut, "FLASH")

    def checked(problem: AttentionProblem | None, backend: str | None) -> Callable[[], object]:
        call = case.flex(tokens, VIDEO, QUESTION, problem, backend)
        apart = float((call() - expected).abs().max())
        if not apart < 0.05:
            raise AssertionError(f"outputs differ by {apart:.2g}")
        return call

    torch._dynamo.reset()
    for who, (problem, backend) in reversed(ways.items()):
        call = cases.report.step(f"{name}, {who}", lambda p=problem, b=backend: checked(p, b), COMPILING)
        if call is not None:
            candidates[who] = call
    cases.add(name, candidates, "FlexAttention", "<= 1")


def why_no_flash4() -> str | None:
    """None where it can be imported."""
    try:
        import flash_attn.cute  # noqa: F401
    except Exception as error:  # an older flash-attn, a compiler of another version
        return f"flash-attn-4 cannot be imported here ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    return None


def streams(cases: Cases, n: int = 4096, count: int = 60, length: int = 49) -> None:
    """What a sweep packs, against its parent alone."""
    tokens = av_tokens(n)
    packed = packed_streams(tokens, count, length)
    plain = AttentionProblem(tokens)
    share = int(open_edges(packed).sum()) / int(open_edges(plain).sum())
    both = {
        "avflow": operands(packed.n_rows, packed.n_keys, "3B").ours(packed),
        "avflow, parent alone": operands(n, n, "3B").ours(plain),
    }
    goal = f"<= 1.3 x edges ({share:.2f})"
    cases.add(f"3B, {n} tokens and {count} streams of {length} rows", both, "avflow, parent alone", goal, factor=share)


def decode(cases: Cases, size: str) -> None:
    """One new token over 16k keys, a layer; `COLD_COPIES` layers to a graph, so seconds are of that many calls."""
    heads, kv_heads, d = SHAPES[size]
    n = DECODE_KEYS
    q = torch.randn(1, heads, d, device="cuda").bfloat16()
    cache = [torch.randn(2, n, kv_heads, d, device="cuda").bfloat16() for _ in range(COLD_COPIES)]
    turned = [c.transpose(1, 2).contiguous() for c in cache]  # [2, kv_heads, keys, d], as transformers' cache has it
    problem = one_row(n)
    folded = q[0].view(1, kv_heads, heads // kv_heads, d)  # heads of a kv head as its rows

    def flash(i: int) -> torch.Tensor:
        with sdpa_kernel(FLASH):
            return sdpa(folded, turned[i][0][None], turned[i][1][None])

    def gqa(i: int) -> torch.Tensor:
        with sdpa_kernel(FLASH):
            return sdpa(q.transpose(0, 1)[None], turned[i][0][None], turned[i][1][None], enable_gqa=True)

    calls = {
        "avflow": lambda i: attention(q, cache[i][0], cache[i][1], problem),
        "avflow, heads first in memory": lambda i: attention(q, *turned[i].transpose(1, 2), problem),
        "sdpa flash, heads folded into rows": flash,
        "sdpa flash, enable_gqa": gqa,
    }
    name = f"{size}, one row, {n} keys, {COLD_COPIES} layers"
    goal = f"<= {COLD_COPIES * 25} us in a graph" if size == "3B" else "<= 1"
    peer = "sdpa flash, heads folded into rows"
    eager = {who: (lambda call=call: [call(i) for i in range(COLD_COPIES)]) for who, call in calls.items()}
    cases.add(f"{name}, as called", eager, peer, "<= 1")
    graphs = {}
    for who, run in eager.items():
        graph = cases.report.step(f"{name}, capture of {who}", lambda run=run: captured(run), None)
        if graph is not None:
            graphs[who] = graph
    cases.add(f"{name}, CUDA graph", graphs, peer, goal)


@torch.inference_mode()
def measure(device: str, path: str | None, with_flex: bool, each: float, seconds: float) -> int:
    """0 where every part ran. each: seconds of turns for a case; seconds: for all of them."""
    report = Report(device, path, seconds)
    report.data["ceilings"] = report.step("ceilings", lambda: ceilings(device))
    cases = Cases(report, each)
    missing = why_no_flash4()
    if missing:
        report.skip("FlashAttention-4", missing)
    report.step("decode 3B", lambda: decode(cases, "3B"))
    for n in LENGTHS:
        report.step(f"{n} tokens", lambda n=n: whole_prompts(cases, n, "3B", missing is None))
    report.step("streams", lambda: streams(cases))
    report.step("7B", lambda: whole_prompts(cases, 8192, "7B", missing is None))
    report.step("decode 7B", lambda: decode(cases, "7B"))
    if with_flex:
        report.step("compiled peers", lambda: compiled_peers(cases, 8192, missing is None), COMPILING)
    return report.finish()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--no-flex",
        action="store_true",
        help="leave FlexAttention, and FlashAttention-4 with cuts, out (compiling takes a minute)",
    )
    parser.add_argument("--each", type=float, default=0.5, help="seconds of turns for each case")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all cases")
    args = parser.parse_args(arguments)
    return measure("cuda", args.json, not args.no_flex, args.each, args.seconds)
