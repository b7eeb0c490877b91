"""Eviction in vLLM against the same engine without it: prefill, KV blocks, many requests. CPU, in test-vllm's venv.

    .venv-vllm/bin/python benchmarks cpu/vllm [--tokens 4096] [--turns 3] [--requests 16]

Claim: what a schedule saves of a prompt's rows, it saves of the prefill's time, in vLLM too; and many requests at once
are answered faster, with a pool of KV blocks for four plain ones. A random Qwen2 (12 layers, hidden 512, float32), all
but 61 of the tokens are media. One engine per schedule; requests with and without eviction (opted out) take turns in
it, each prompt is new, and each of the two keeps its best time. All goes by the process' CPU time, which other work on
the machine changes least: of one thread, on an idle machine, it is the clock's.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lib.tokenizer import copy_tokenizer

LAYERS, HIDDEN, TEXT = 12, 512, 61


def checkpoint(folder: Path, tokens: int) -> str:
    """A Qwen2 of random weights, with tiny-omni's tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=472,
        hidden_size=HIDDEN,
        intermediate_size=1408,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2 * tokens,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    copy_tokenizer(folder)
    return str(folder)


def measure(model: str, after: int, tokens: int, turns: int) -> str:
    """A row of the table."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    llm: Any = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=tokens + 32,
        max_num_seqs=2,
        max_num_batched_tokens=tokens,
        block_size=32,
        enable_prefix_caching=False,
        additional_config={"avflow": {"media": after}},
    )
    manager = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager
    sizes = [len(group.layer_names) for group in manager.kv_cache_config.kv_cache_groups]
    free, held = manager.free, []

    def noted(request: Any) -> Any:
        blocks = manager.get_blocks(request.request_id).blocks
        held.append(sum(len(part) * size for part, size in zip(blocks, sizes, strict=True)))
        return free(request)

    manager.free = noted
    rng = random.Random(1)
    best: dict[bool, float] = {}
    blocks: dict[bool, int] = {}
    extras = {True: {"avflow_runs": [[30, tokens - TEXT + 30, "video"]]}, False: {"avflow_off": 1}}
    for turn in range(2 * turns + 2):
        evicts = bool(turn % 2)
        prompt = {"prompt_token_ids": [rng.randrange(460) for _ in range(tokens)]}
        params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, extra_args=extras[evicts])
        begin = time.process_time()
        llm.generate([prompt], params, use_tqdm=False)
        if turn >= 2:  # one of each to warm up
            best[evicts] = min(best.get(evicts, 1e9), time.process_time() - begin)
        blocks[evicts] = held[-1]
    saved, rows = 1 - best[True] / best[False], (LAYERS - 1 - after) / LAYERS * (tokens - TEXT) / tokens
    llm.llm_engine.engine_core.shutdown()
    manager.free = free
    del llm
    cleanup_dist_env_and_memory()
    return (
        f"| after {after} of {LAYERS} layers | {rows:.1%} | {best[False]:.2f} s | {best[True]:.2f} s | {saved:.1%} | "
        f"{saved / rows:.0%} | {blocks[True] / blocks[False]:.2f} |"
    )


def answer_all(engine: Any, prompts: list[Any], params: Any) -> tuple[float, list[float]]:
    """CPU seconds until all are answered, and until each one's first token, ascending; all were there at the start."""
    begin = time.process_time()
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), prompt, params)
    first: dict[str, float] = {}
    while engine.has_unfinished_requests():
        for out in engine.step():
            if out.outputs[0].token_ids:
                first.setdefault(out.request_id, time.process_time() - begin)
    return time.process_time() - begin, sorted(first.values())


def measure_many(model: str, after: int, tokens: int, requests: int, turns: int, new: int = 16) -> str:
    """The rows of the second table: `requests` prompts of a quarter of the tokens, all there at once."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    from avflow.eviction.vllm_groups import group_size, segments

    n = tokens // 4
    size = group_size(segments(LAYERS, (after,)))
    llm: Any = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=n + 32,
        max_num_seqs=requests,
        max_num_batched_tokens=n,
        block_size=32,
        enable_prefix_caching=False,
        num_gpu_blocks_override=1 + 4 * -(-(n + new) // 32) * LAYERS // size,
        additional_config={"avflow": {"media": after}},
    )
    rng = random.Random(2)
    best: dict[bool, tuple[float, float, float]] = {}
    extras = {True: {"avflow_runs": [[30, n - TEXT + 30, "video"]]}, False: {"avflow_off": 1}}
    for turn in range(2 * turns + 2):
        evicts = bool(turn % 2)
        count = requests if turn >= 2 else 1  # one of each to warm up
        prompts = [{"prompt_token_ids": [rng.randrange(460) for _ in range(n)]} for _ in range(count)]
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, extra_args=extras[evicts])
        took, first = answer_all(llm.llm_engine, prompts, params)
        if turn >= 2 and (evicts not in best or took < best[evicts][0]):
            best[evicts] = (took, statistics.median(first), first[-1])
    llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()
    names = {False: "nothing leaves", True: f"media leave after {after} of {LAYERS} layers"}
    rows = [
        f"| {names[evicts]} | {requests / took:.2f} | {median:.2f} s | {last:.2f} s |"
        for evicts, (took, median, last) in sorted(best.items())
    ]
    ratios = [best[False][0] / best[True][0], *(best[True][i] / best[False][i] for i in (1, 2))]
    return "\n".join([*rows, f"| ratio | {ratios[0]:.2f} | {ratios[1]:.2f} | {ratios[2]:.2f} |"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16)
    options = parser.parse_args(arguments)
    for name, value in (
        ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),  # CPU time is this process'
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_LOGGING_LEVEL", "ERROR"),
        ("OMP_NUM_THREADS", "1"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as folder:
        model = checkpoint(Path(folder), options.tokens)
        print(
            "| media leave | rows saved | prefill, all | evicted | saved | of rows | KV blocks |\n"
            "|---|---|---|---|---|---|---|"
        )
        for after in (LAYERS // 3 - 1, LAYERS // 2 - 1, 2 * LAYERS // 3 - 1):
            print(measure(model, after, options.tokens, options.turns), flush=True)
        print(
            f"\n{options.requests} requests of {options.tokens // 4} tokens and 16 new ones at once, KV blocks for "
            "four plain ones\n"
            "| | requests per s of CPU | first token, median | last of them |\n"
            "|---|---|---|---|"
        )
        more = (options.tokens, options.requests, options.turns)
        print(measure_many(model, LAYERS // 2 - 1, *more), flush=True)
