"""Prompts as vLLM takes them, with what avflow answers; and a vLLM engine in this process, with its counts."""

from __future__ import annotations

import gc
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import interpreted
import numpy as np
import torch

import avflow
from avflow import EveryNth, Sample, Step, synthetic, weights
from avflow.eviction.leaving import NEVER, leaves_after
from avflow.models.qwen2_5_omni import family
from avflow.prompts.groups import GroupTable

for name, value in {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, so that its blocks can be counted
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(name, value)
if interpreted.V2:
    interpreted.switch_on()

MODEL = weights.folder("tiny-omni")
LAYERS, NEW, BLOCK = 12, 12, 32

# Of every engine, as JSON: how `make test-vllm-full` and benchmarks/vllm_gpu.sh run these tests compiled or on a GPU.
ENGINE = json.loads(os.environ.get("AVFLOW_TEST_ENGINE", "{}"))

SCHEDULES: dict[str, list[Step]] = {
    "half": [Step("video", 5), Step("audio", 5)],
    "early": [Step("video", 2), Step("audio", 2)],
    "at once": [Step("media", 0)],
    "two layers": [Step("video", 3), Step("audio", 7)],
    "three layers, thinned": [Step("video", 1, EveryNth(2)), Step("video+audio", 4), Step("question_text", 8)],
}
NEEDS_RUNS = {"three layers, thinned"}


@dataclass
class Asked:
    """One question. answers: by schedule's name, "" for none: NEW greedy token ids."""

    prompt: Any
    text: str
    frames: torch.Tensor  # uint8 [T, 3, H, W]
    sound: Any  # float32 [samples]
    fps: float
    answers: dict[str, list[int]] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """What vLLM's LLM.generate takes: the media as avflow read them."""
        area = self.frames.shape[-1] * self.frames.shape[-2]
        return {
            "prompt": self.text,
            "multi_modal_data": {
                "video": [self.frames.permute(0, 2, 3, 1).numpy()],
                "audio": [(self.sound, 16000)],
            },
            "mm_processor_kwargs": {
                "use_audio_in_video": True,
                "do_sample_frames": False,
                "fps": self.fps,
                "size": {"shortest_edge": area, "longest_edge": area},
            },
        }


def ask(count: int, schedules: dict[str, list[Step]] = SCHEDULES) -> list[Asked]:
    """Held-out questions, answered by avflow.evict(decode="keep") and generate, in float32."""
    model = avflow.load("tiny-omni", dtype=torch.float32)
    model.hf.generation_config.eos_token_id = None
    calls: list[tuple[str, dict[str, Any]]] = []
    real = family.processing.encode

    def encode(processor: Any, text: str, **media: Any) -> dict[str, Any]:
        calls.append((text, media))
        return real(processor, text, **media)

    asked = []
    family.processing.encode = encode
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(synthetic.write_items(synthetic.make_items("heldout", count), folder))
            for sample in Sample.read_jsonl(path if path.suffix == ".jsonl" else path / "samples.jsonl"):
                prompt = model.prepare(sample)
                text, media = calls[-1]
                one = Asked(prompt, text, media["frames"], media["sounds"][0], 1 / media["seconds_per_frame"])
                one.answers[""] = _generate(model, prompt)
                for name, steps in schedules.items():
                    with avflow.evict(model, avflow.EvictionSchedule(steps), groups=prompt):
                        one.answers[name] = _generate(model, prompt)
                asked.append(one)
    finally:
        family.processing.encode = real
    return asked


def _generate(model: Any, prompt: Any) -> list[int]:
    ids = model.hf.generate(**prompt.model_inputs, max_new_tokens=NEW, do_sample=False)
    return ids[0, len(prompt) :].tolist()


def rows_per_layer(name: str, prompt: Any) -> list[int]:
    """How many of the prompt's tokens are there in each layer."""
    table = GroupTable()
    after = leaves_after(SCHEDULES[name], table, table.ids(prompt.groups), np.array(prompt.items))
    return [int(((after == NEVER) | (after >= layer)).sum()) for layer in range(LAYERS)]


def schedule_file(name: str, folder: Path) -> str:
    path = folder / "schedule.json"
    avflow.EvictionSchedule(SCHEDULES[name]).save(path)
    return str(path)


class Engine:
    """vLLM's LLM, and what its scheduler did."""

    def __init__(self, avflow: Any = None, **options: Any) -> None:
        from vllm import LLM

        given: dict[str, Any] = {
            "model": str(MODEL),
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 512,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 512,
            "block_size": BLOCK,
            "limit_mm_per_prompt": {"video": 1, "audio": 1, "image": 0},
            "mm_processor_cache_gb": 0,  # vLLM 0.32 loses a clip's sound where it has cached one of the two
            "enable_prefix_caching": False,
            "disable_log_stats": True,
        }
        if avflow is not None:
            given["additional_config"] = {"avflow": {**avflow, "untried": torch.cuda.is_available()}}
        self.llm: Any = LLM(**(given | ENGINE | options))
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.manager = self.scheduler.kv_cache_manager
        self.free_at_start = self.free
        self.seen = {"running": 0, "preempted": 0, "hits": 0, "copies": 0, "steps": 0}
        self.held: dict[str, tuple[int, list[int]]] = {}  # tokens, blocks per group, when a request is freed
        self._watch()

    @property
    def free(self) -> int:
        return self.manager.block_pool.get_num_free_blocks()

    @property
    def runner(self) -> Any:
        return self.core.model_executor.driver_worker.worker.model_runner

    def segments(self) -> list[int]:
        """Per KV cache group."""
        return [getattr(g.kv_cache_spec, "segment", 0) for g in self.manager.kv_cache_config.kv_cache_groups]

    def _watch(self) -> None:
        schedule, free = self.scheduler.schedule, self.manager.free

        def watched(*args: Any, **kwargs: Any) -> Any:
            out = schedule(*args, **kwargs)
            seen = self.seen
            seen["running"] = max(seen["running"], len(out.num_scheduled_tokens))
            seen["preempted"] += len(out.preempted_req_ids or ())
            seen["hits"] += sum(new.num_computed_tokens for new in out.scheduled_new_reqs)
            seen["copies"] += len(out.kv_cache_block_copies or ())
            seen["steps"] += 1
            return out

        def noted(request: Any) -> Any:
            blocks = [len(group) for group in self.manager.get_blocks(request.request_id).blocks]
            self.held[request.request_id] = (request.num_computed_tokens, blocks)
            return free(request)

        self.scheduler.schedule, self.manager.free = watched, noted

    def params(self, extra: dict[str, Any] | None = None, new: int = NEW, **more: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, extra_args=extra, **more)

    def generate(self, requests: list[Any], extras: list[Any] | None = None, new: int = NEW) -> list[list[int]]:
        """Greedy token ids, all requests at once."""
        params = [self.params(extra, new) for extra in extras or [None] * len(requests)]
        outputs = self.llm.generate(requests, params, use_tqdm=False)
        return [list(out.outputs[0].token_ids) for out in outputs]

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm, self.core, self.scheduler, self.manager
        gc.collect()
        cleanup_dist_env_and_memory()
