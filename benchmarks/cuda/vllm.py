"""Eviction in vLLM against the same engine without it, on a CUDA device, bf16: first token, decoding, KV blocks.

    python benchmarks cuda/vllm [--shape 3b] [--tokens 4096 16384] [--after -1 11 17 26] [--engine JSON] [--json FILE]

Claim: what a schedule saves of a prompt's rows, it saves of the time to the first token, and of the KV blocks of later
layers. A decoder of Qwen2.5's sizes with vLLM's dummy weights; all but 61 of a prompt's tokens are media, which leave
after the layer of --after (-1: an engine without a schedule). In each engine requests with eviction and opted out take
turns, every prompt is new, and each keeps its best time: wall time until the first token, and of the tokens after it.
--engine: more arguments of vLLM's LLM. The tests run it on a CPU: --device cpu --shape tiny.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lib.decoders import SHAPES
from benchmarks.lib.options import device_parser
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.tokenizer import copy_tokenizer

TEXT = 61  # tokens that stay
DECODED = 64
LENGTHS = (4096, 16384)


def checkpoint(folder: Path, shape: str, tokens: int) -> str:
    """A configuration without weights, and tiny-omni's tokenizer, which nothing asks."""
    from transformers import Qwen2Config

    layers, hidden, inner, heads, kv_heads, vocabulary = SHAPES[shape]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2 * tokens,
        tie_word_embeddings=True,
        architectures=["Qwen2ForCausalLM"],
    )
    config.save_pretrained(folder)
    copy_tokenizer(folder)
    return str(folder)


class Case:
    """One engine: tokens leave after `after`, or never (-1)."""

    def __init__(self, model: str, after: int, options: argparse.Namespace) -> None:
        from vllm import LLM

        longest, cuda = max(options.tokens), options.device == "cuda"
        given: dict[str, Any] = {
            "dtype": "bfloat16",
            "load_format": "dummy",
            "max_model_len": longest + DECODED + 16,
            "max_num_seqs": 4,
            "max_num_batched_tokens": longest,
            "block_size": 32,
            "enable_prefix_caching": False,
            "skip_tokenizer_init": True,
        }
        if after >= 0:
            given["additional_config"] = {"avflow": {"media": after, "untried": cuda}}
        self.after, self.rng = after, random.Random(1)
        self.llm: Any = LLM(model, **(given | options.engine))
        manager = self.llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager
        self.layers = [len(group.layer_names) for group in manager.kv_cache_config.kv_cache_groups]
        self.blocks: list[int] = []  # times layers, of every request that ended
        free = manager.free

        def noted(request: Any) -> Any:
            held = manager.get_blocks(request.request_id).blocks
            self.blocks.append(sum(len(own) * layers for own, layers in zip(held, self.layers, strict=True)))
            return free(request)

        manager.free = noted

    def seconds(self, tokens: int, evicts: bool) -> tuple[float, float]:
        """Until the first token, and of every one after it; of a new prompt."""
        from vllm import SamplingParams

        extra: dict[str, Any] | None = {"avflow_off": 1}
        if self.after < 0:
            extra = None
        elif evicts:
            extra = {"avflow_runs": [[30, tokens - TEXT + 30, "video"]]}
        times = []
        for new in (1, 1 + DECODED):
            prompt = {"prompt_token_ids": [self.rng.randrange(400) for _ in range(tokens)]}
            params = SamplingParams(
                temperature=0, max_tokens=new, ignore_eos=True, detokenize=False, extra_args=extra and dict(extra)
            )
            begin = time.perf_counter()
            self.llm.generate([prompt], params, use_tqdm=False)
            times.append(time.perf_counter() - begin)
        return times[0], (times[1] - times[0]) / DECODED

    def measure(self, tokens: int, turns: int) -> list[dict[str, Any]]:
        kinds = (False,) if self.after < 0 else (False, True)
        best: dict[bool, tuple[float, float]] = {}
        blocks = {}
        for turn in range(turns + 1):
            for evicts in kinds:
                found = self.seconds(tokens, evicts)
                blocks[evicts] = self.blocks[-1]
                if turn:  # after one to warm up
                    best[evicts] = tuple(map(min, found, best.get(evicts, found)))  # type: ignore[assignment]
        return [
            {
                "tokens": tokens,
                "after": self.after,
                "evicts": evicts,
                "first_token_seconds": best[evicts][0],
                "next_token_seconds": best[evicts][1],
                "kv_blocks_of_layers": blocks[evicts],
            }
            for evicts in kinds
        ]

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()


def main(arguments: list[str] | None = None) -> None:
    parser = device_parser(__doc__, LENGTHS)
    parser.set_defaults(shape=["3b"])
    parser.add_argument("--after", type=int, nargs="+", default=[-1, 11, 17, 26])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--engine", type=json.loads, default={}, metavar="JSON")
    options = parser.parse_args(arguments)
    for name, value in (
        ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),  # the blocks are counted in this process
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_LOGGING_LEVEL", "WARNING"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        os.environ.setdefault(name, value)
    begin = time.monotonic()
    data: dict[str, Any] = {"machine": machine(), "engine": options.engine, "results": [], "errors": {}}
    for shape in options.shape:
        layers = SHAPES[shape][0]
        with tempfile.TemporaryDirectory() as folder:
            model = checkpoint(Path(folder), shape, max(options.tokens))
            for after in options.after:
                name = f"{shape}, after {after} of {layers} layers"
                if time.monotonic() - begin > options.seconds:
                    data["errors"][name] = "no time left"
                    continue
                try:
                    case = Case(model, after, options)
                    for tokens in options.tokens:
                        for row in case.measure(tokens, options.turns):
                            data["results"].append({"shape": shape, "layers": layers, **row})
                            print(row, flush=True)
                            write_json(options.json, data, quiet=True)
                    case.close()
                except Exception as error:  # noqa: BLE001  the next engine is another one
                    data["errors"][name] = f"{type(error).__name__}: {error}"
                    print(f"{name}: {data['errors'][name]}", flush=True)
            write_json(options.json, data, quiet=True)
    if data["errors"]:
        raise SystemExit(1)
