"""`python benchmarks/attention.py --device cuda`: the attention op against torch's on a CUDA device, bf16.

Times are those of CUDA events around several calls, the best of rounds in which the candidates take turns. Each peer is
pinned to one backend of SDPA, and gets keys and values with the heads it likes; one that fails leaves its error.
Not run on any device so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from attention import AUDIO, LAST, QUESTION, VIDEO, av_tokens, edges, frames
from device import ceilings, gpu_facts
from timing import machine, write_json
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, capabilities
from avflow_ext._load import _C
from avflow_ext.device import cuda_kernel

SHAPES = {"3B": (16, 2, 128), "7B": (28, 4, 128)}  # heads, kv heads, d of Qwen2.5
FLASH, CUDNN, MATH = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH
LENGTHS = (4096, 8192, 16384, 32768)
DECODE_KEYS = 16384
COLD_COPIES = 12  # of the decode step's keys and values: 200 MB at 3B shapes, more than any L2


def best_times(candidates: dict[str, Callable[[], object]], seconds: float = 1.0) -> tuple[dict, dict]:
    """(best seconds of one call, error text) by candidate."""
    best, errors, calls = {}, {}, {}
    for name, run in candidates.items():
        try:
            for _ in range(3):
                run()
            torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            torch.cuda.synchronize()
            # Enough calls for 5 ms: events tick in half microseconds, and a launch hides behind the call before it.
            calls[name] = max(1, min(200, int(5e-3 / (time.perf_counter() - began))))
            best[name] = float("inf")
        except (RuntimeError, NotImplementedError, torch.cuda.OutOfMemoryError) as error:
            errors[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            torch.cuda.empty_cache()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began = time.perf_counter()
    rounds = 0
    while best and (rounds < 5 or time.perf_counter() - began < seconds):
        for name in best:
            start.record()
            for _ in range(calls[name]):
                candidates[name]()
            end.record()
            end.synchronize()
            best[name] = min(best[name], start.elapsed_time(end) / 1e3 / calls[name])
        rounds += 1
    return best, errors


class Case:
    """q, k, v on the device and the forms torch's kernels want."""

    def __init__(self, rows: int, keys: int, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        heads, kv_heads, d = shape
        g = torch.Generator(device="cuda").manual_seed(0)
        self.q, self.k, self.v = (
            torch.randn(n, h, d, generator=g, device="cuda").bfloat16()
            for n, h in ((rows, heads), (keys, kv_heads), (keys, kv_heads))
        )
        self.wide = tuple(  # [1, heads, n, d], contiguous
            t.repeat_interleave(heads // t.shape[1], 1).transpose(0, 1)[None].contiguous()
            for t in (self.q, self.k, self.v)
        )

    def ours(self, problem: AttentionProblem):
        return lambda: attention(self.q, self.k, self.v, problem)

    def sdpa(self, backend: SDPBackend, mask: torch.Tensor | None = None):
        def run():
            with sdpa_kernel(backend):
                return sdpa(*self.wide, attn_mask=mask, is_causal=mask is None)

        return run

    def flex(self, rule):
        """FlexAttention with this mask_mod, compiled; the block mask is built beforehand, as our plan is."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        torch._dynamo.reset()  # every length is a graph of its own
        block = create_block_mask(rule, None, None, self.q.shape[0], self.k.shape[0], device="cuda", _compile=True)
        compiled = torch.compile(flex_attention, dynamic=False)
        return lambda: compiled(*self.wide, block_mask=block)


def dense_mask(tokens: Tokens, source: int, target: int) -> torch.Tensor:
    """bool [1, 1, n, n] on the device: causal, without the edges source -> target."""
    group = tokens.group.cuda()
    n = len(tokens)
    open_ = torch.ones(n, n, dtype=torch.bool, device="cuda").tril_()
    return (open_ & ~((group == target)[:, None] & (group == source)[None, :]))[None, None]


def open_tiles(problem: AttentionProblem, ratio: int) -> int:
    kernel = cuda_kernel(torch.cuda.current_device(), len(problem.rows), ratio)
    return int((_C.tile_kinds(problem.packed(ratio, device_type=kernel).numpy()) > 0).sum())


class Report:
    """Prints each case and keeps what is written to the file after each: a run that is stopped leaves what it has."""

    def __init__(self, path: str | None, seconds: float) -> None:
        self.path, self.seconds = path, seconds  # of turns for each case
        self.result = {
            "machine": {**machine(), **gpu_facts()},
            "path": f"cuda-{capabilities()['cuda']['path']}",
            "dtype": "bfloat16",
            "date": time.strftime("%Y-%m-%d"),
            "cases": {},
        }
        print(f"{self.result['machine']}, path {self.result['path']}")

    def add(self, name: str, candidates: dict, peer: str, goal: str, factor: float = 1.0, flops: float = 0.0) -> None:
        """`factor`: share of the peer's work that this case has; `flops` of our call, for its rate."""
        times, errors = best_times(candidates, self.seconds)
        case = {"seconds": times, "errors": errors, "peer": peer, "goal": goal, "factor": factor}
        ours = times.get("avflow")
        if ours and peer in times:
            case["ratio"] = ours / times[peer] / factor
        if ours and flops:
            case["tflops"] = flops / ours / 1e12
        self.result["cases"][name] = case
        print(f"{name} (goal {goal})" + (f", {case['tflops']:.0f} TFLOP/s" if "tflops" in case else ""))
        for other, seconds in times.items():
            share = f"{ours / seconds:6.2f} x" if ours and other != "avflow" else f"{'':8}"
            print(f"    {seconds * 1e6:10.1f} us  {share}  {other}")
        for other, text in errors.items():
            print(f"    {'failed':>10}               {other}: {text}")
        write_json(self.path, self.result, quiet=True)


def whole_prompts(report: Report, n: int, size: str, with_flex: bool) -> None:
    """Prefill of n tokens: without cuts, video -> question, other frames cut."""
    heads, kv_heads, d = SHAPES[size]
    ratio = heads // kv_heads
    case, tokens = Case(n, n, SHAPES[size]), av_tokens(n)
    plain = AttentionProblem(tokens)
    flops = 4.0 * d * heads * n * (n + 1) / 2
    candidates = {"avflow": case.ours(plain), "sdpa flash": case.sdpa(FLASH), "sdpa cuDNN": case.sdpa(CUDNN)}
    difference = (candidates["avflow"]().out - candidates["sdpa flash"]()[0].transpose(0, 1)).abs().max()
    print(f"largest difference from sdpa flash: {float(difference):.1e}")
    report.add(f"{size}, {n} tokens, no cuts", candidates, "sdpa flash", "<= 1", flops=flops)

    cut = AttentionProblem(tokens, cuts=[Cut(1 << VIDEO, 1 << QUESTION)])
    mask = dense_mask(tokens, VIDEO, QUESTION)
    candidates = {"avflow": case.ours(cut), "avflow, no cuts": case.ours(plain)}
    if n <= 8192:  # at 16k it holds several [heads, n, n] matrices of 17 GB
        candidates["sdpa math, dense mask"] = case.sdpa(MATH, mask)
    candidates["sdpa cuDNN, dense mask"] = case.sdpa(CUDNN, mask)
    candidates["sdpa efficient, dense mask"] = case.sdpa(SDPBackend.EFFICIENT_ATTENTION, mask)
    peer = "avflow, no cuts"
    if with_flex:
        group = tokens.group.cuda()

        def rule(b, h, i, j):
            return (i >= j) & ~((group[i] == QUESTION) & (group[j] == VIDEO))

        try:
            candidates["FlexAttention"] = case.flex(rule)
            peer = "FlexAttention"
        except Exception as error:  # the compiler raises whatever it likes
            print(f"FlexAttention could not be compiled: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    report.add(f"{size}, {n} tokens, video -> question", candidates, peer, "<= 1 x both")
    del mask

    film = frames(n, 256)
    cross = AttentionProblem(film, cuts=[Cut(1 << VIDEO, 1 << VIDEO, scope="other_items")])
    whole = AttentionProblem(film)
    share = open_tiles(cross, ratio) / open_tiles(whole, ratio)
    report.add(
        f"{size}, {n} tokens, other frames cut, 256-token frames",
        {"avflow": case.ours(cross), "avflow, no cuts": case.ours(whole), "a fresh copy of q": case.q.clone},
        "avflow, no cuts",
        f"near 1 x open tiles ({share:.3f})",
        factor=share,
    )


def streams(report: Report, n: int = 4096, count: int = 60, length: int = 49) -> None:
    """What a sweep packs: the prompt and `count` streams of its last rows, every other one with a cut."""
    tokens, start = av_tokens(n), n - length
    order = torch.cat([torch.arange(n), torch.arange(start, n).repeat(count)])
    stream = torch.cat([torch.zeros(n), 1 + torch.arange(count).repeat_interleave(length)])
    packed = AttentionProblem(
        Tokens(order, tokens.group[order], None, stream.int()),
        streams=Streams([-1] + [0] * count, [0] + [start] * count),
        cuts=[Cut(1 << AUDIO, 1 << QUESTION, tuple(range(1, count + 1, 2)))],
    )
    plain = AttentionProblem(tokens)
    share = edges(packed) / edges(plain)
    both = {
        "avflow": Case(packed.n_rows, packed.n_keys, SHAPES["3B"]).ours(packed),
        "avflow, parent alone": Case(n, n, SHAPES["3B"]).ours(plain),
    }
    goal = f"<= 1.3 x edges ({share:.2f})"
    report.add(f"3B, {n} tokens and {count} streams of {length} rows", both, "avflow, parent alone", goal, factor=share)


def captured(call: Callable[[int], object], copies: int) -> Callable[[], object]:
    """A CUDA graph of call(0) .. call(copies - 1): the host's share is gone, and no keys are left in the cache."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(copies):
            call(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call(i) for i in range(copies)]
    return lambda: (graph.replay(), kept)


def decode(report: Report, size: str) -> None:
    """One new token over 16k keys, a layer; `COLD_COPIES` layers to a graph, so seconds are of that many calls."""
    heads, kv_heads, d = SHAPES[size]
    n = DECODE_KEYS
    q = torch.randn(1, heads, d, device="cuda").bfloat16()
    cache = [torch.randn(2, n, kv_heads, d, device="cuda").bfloat16() for _ in range(COLD_COPIES)]
    turned = [c.transpose(1, 2).contiguous() for c in cache]  # [2, kv_heads, keys, d], as transformers' cache has it
    problem = AttentionProblem(Tokens([n - 1], [LAST]), Tokens(torch.arange(n), torch.full((n,), VIDEO)))
    folded = q[0].view(1, kv_heads, heads // kv_heads, d)  # heads of a kv head as its rows

    def flash(i):
        with sdpa_kernel(FLASH):
            return sdpa(folded, turned[i][0][None], turned[i][1][None])

    def gqa(i):
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
    eager = {k: (lambda c=c: [c(i) for i in range(COLD_COPIES)]) for k, c in calls.items()}
    report.add(f"{name}, as called", eager, peer, "<= 1")
    graphs = {}
    for candidate, call in calls.items():

        def capture(candidate=candidate, call=call):
            graphs[candidate] = captured(call, COLD_COPIES)

        guarded(f"capture of {candidate}", capture)
    report.add(f"{name}, CUDA graph", graphs, peer, goal)


def guarded(name: str, run: Callable[[], None]) -> bool:
    """Runs a part; a failure is told, and the next part runs."""
    try:
        run()
        return True
    except Exception as error:  # a peer's missing kernel, a full device
        print(f"{name} failed: {type(error).__name__}: {str(error)[:500]}")
        return False
    finally:
        torch.cuda.empty_cache()


@torch.inference_mode()
def main(path: str | None, with_flex: bool, seconds: float = 0.5) -> int:
    """0 where every part ran."""
    report = Report(path, seconds)

    def measure_ceilings() -> None:
        report.result["ceilings"] = ceilings("cuda")

    parts = [
        ("ceilings", measure_ceilings),
        ("decode 3B", lambda: decode(report, "3B")),
        # FlexAttention is compiled for one length: each takes longer than everything else of that length.
        *((f"{n} tokens", lambda n=n: whole_prompts(report, n, "3B", with_flex and n == 8192)) for n in LENGTHS),
        ("streams", lambda: streams(report)),
        ("7B", lambda: whole_prompts(report, 8192, "7B", False)),
        ("decode 7B", lambda: decode(report, "7B")),
    ]
    fine = [guarded(name, run) for name, run in parts]
    write_json(path, report.result)
    return 0 if all(fine) else 1
