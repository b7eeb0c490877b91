"""Qwen2.5-Omni-3B's vision and audio towers as transformers runs them and as avflow does: calls, launches, time.

    python benchmarks op/towers [--device cuda] [--shape 3b] [--layers 32] [--video 60] [--json FILE]

On the CPU `--shape narrow` counts what 3b's full depth and clip do, at a width that a core can run: numbers of calls
depend on neither width nor values. Operators that return views start no kernel and are not counted.
The vision tower is timed with its MLPs as they are too, that is without the zeros that make their rows whole 16 bytes.
Best times in turns; on the CPU, which other work may share, least CPU time.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avflow.models import towers
from avflow.models.compat import attributes, declare_torchvision
from benchmarks.lib.decoders import made_on
from benchmarks.lib.device import gpu_facts
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.thinker import AUDIO, CLIP, VISION
from benchmarks.lib.timing import least_cpu_seconds, side_by_side
from benchmarks.lib.traces import summary, traced

NARROW = 8  # a head's width; the published numbers of heads, which bound a call


class Operators(TorchDispatchMode):
    """Counts operators below autograd; on a device each starts a kernel or a few."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            self.found[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def make_towers(shape: str, layers: int, device: str) -> nn.ModuleDict:
    """Random weights in bf16 (fp32 on the CPU)."""
    declare_torchvision()
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni

    see, hear = dict(VISION["3b"], depth=layers, window_size=112), dict(AUDIO["3b"], encoder_layers=layers)
    if shape == "narrow":
        see |= dict(hidden_size=NARROW * see["num_heads"], intermediate_size=64)
        hear |= dict(d_model=NARROW * hear["encoder_attention_heads"], encoder_ffn_dim=64)
    if layers < 8:
        see["fullatt_block_indexes"] = [layers - 1]
    see |= dict(out_hidden_size=2048, attn_implementation="sdpa")
    hear |= dict(num_mel_bins=128, n_window=100, output_dim=2048, attn_implementation="sdpa")

    def make() -> nn.ModuleDict:
        vision = omni.Qwen2_5OmniVisionEncoder(omni.Qwen2_5OmniVisionEncoderConfig(**see))
        audio = omni.Qwen2_5OmniAudioEncoder(omni.Qwen2_5OmniAudioEncoderConfig(**hear))
        return nn.ModuleDict({"vision": vision, "audio": audio}).eval()

    made = made_on(device, make)
    return made if device == "cuda" else made.float()


def make_calls(made: nn.ModuleDict, seconds: int, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """Each tower over a clip of 2 frames a second in patches of the 3B benchmark's clip; -> embeddings."""
    _, height, width = CLIP["3b"]
    grid = torch.tensor([[seconds, height, width]], device=device)
    dtype = next(made.parameters()).dtype
    pixels = torch.randn(seconds * height * width, 1176, device=device, dtype=dtype)
    mel = torch.randn(128, 100 * seconds, device=device, dtype=dtype)
    lengths = torch.tensor([100 * seconds], device=device)
    return {
        "vision": lambda: made["vision"](pixels, grid_thw=grid).pooler_output,
        "audio": lambda: made["audio"](mel, feature_lens=lengths).last_hidden_state,
    }


def counted(call: Callable[[], object], device: str) -> dict[str, Any]:
    """Calls of scaled_dot_product_attention, and operators (CPU) or launches, waits and copies (CUDA)."""
    sdpa, calls = torch.nn.functional.scaled_dot_product_attention, [0]

    def count(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls[0] += 1
        return sdpa(*args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = count
    try:
        if device == "cuda":
            found = summary(traced(call, True), True)
            return {
                "attention_calls": calls[0],
                **{k: found[k] for k in ("launches", "waits", "copies", "idle_seconds")},
            }
        with Operators() as operators:
            call()
        return {"attention_calls": calls[0], "operators": operators.found.total()}
    finally:
        torch.nn.functional.scaled_dot_product_attention = sdpa


@torch.no_grad()
def measure(device: str, shape: str, layers: int, seconds: int, path: str | None, timed: float = 6.0) -> dict[str, Any]:
    """seconds: of the clip; timed: seconds of turns for each tower; on the CPU so many turns, and one."""
    made = make_towers(shape, layers, device)
    gpu = gpu_facts() if device == "cuda" else {}
    data: dict[str, Any] = {"machine": {**machine(), **gpu}, "shape": shape, "layers": layers, "video_seconds": seconds}
    for name, call in make_calls(made, seconds, device).items():

        def by_avflow(call: Callable = call) -> torch.Tensor:
            with attributes(towers.patches(made)):
                return call()

        def unpadded(call: Callable = call) -> torch.Tensor:
            """By avflow, with the MLPs as they are."""
            plain = [patch for patch in towers.patches(made) if not hasattr(patch[0], "gate_proj")]
            with attributes(plain):
                return call()

        want, got = call().float(), by_avflow().float()
        candidates = {"transformers": call, "avflow": by_avflow}
        if name == "vision":
            candidates["avflow, MLP as it is"] = unpadded
        on_cuda = device == "cuda"
        best = side_by_side(candidates, timed, 2) if on_cuda else least_cpu_seconds(candidates, 1 + int(timed))
        data[name] = {
            "transformers": counted(call, device),
            "avflow": counted(by_avflow, device),
            "seconds": best,
            "ratio": best["transformers"] / best["avflow"],
            "apart": float((got - want).norm() / want.norm()),
        }
        print(f"{name}: {best['transformers'] * 1e3:.1f} ms by transformers, {best['avflow'] * 1e3:.1f} ms by avflow")
        for who in ("transformers", "avflow"):
            print(f"    {who}: {data[name][who]}")
        for who, seconds in best.items():
            print(f"    {seconds * 1e3:9.1f} ms  {who}")
        print(f"    {data[name]['ratio']:.2f} x; embeddings {data[name]['apart']:.1e} apart, relative")
    write_json(path, data)
    return data


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--shape", choices=("3b", "narrow"), default="3b")
    parser.add_argument("--layers", type=int, default=32, help="of each tower")
    parser.add_argument("--video", type=int, default=60, help="seconds of the clip")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing, for each tower")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(arguments)
    measure(args.device, args.shape, args.layers, args.video, args.json, args.seconds)
