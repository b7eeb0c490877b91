"""Random requests to a random text decoder: batches of chunks, few blocks, a prefix cache; avflow tells the answers."""

import random
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from served import MODEL
from transformers import Qwen2Config, Qwen2ForCausalLM

import avflow
from avflow_vllm.names import RUNS

NEW, STEPS = 20, {"video": 1, "audio": 3}


@dataclass
class Request:
    """ids, and what they are; greedy tokens and log-probabilities of the first one, float [vocabulary], by avflow."""

    ids: list[int]
    runs: list[list[Any]]
    answer: list[int]
    logprobs: torch.Tensor
    plain: list[int]
    plain_logprobs: torch.Tensor


def decoder(folder, hidden_size=128, initializer_range=0.2):
    """A checkpoint of a random decoder."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=472,
        hidden_size=hidden_size,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=initializer_range,
        bos_token_id=None,
        eos_token_id=None,
    )
    Qwen2ForCausalLM(config).float().save_pretrained(folder)
    for path in MODEL.glob("*token*"):
        shutil.copy(path, folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(MODEL / name, folder)
    return folder


def make_requests(folder, count, new, steps=STEPS):
    """Random ones, of which many begin as another does."""
    hf = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = avflow.wrap(hf)
    rng = random.Random(3)
    heads = [[rng.randrange(400) for _ in range(rng.randrange(20, 110))] for _ in range(6)]
    labels = [[rng.choice(("video", "audio", "question_text"))] * len(head) for head in heads]

    def answer(ids):
        options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        done = hf.generate(torch.tensor([ids]), max_new_tokens=new, **options)
        return done.sequences[0, len(ids) :].tolist(), done.logits[0][0].log_softmax(-1)

    out = []
    for _ in range(count):
        which = rng.randrange(6)
        tail = [rng.randrange(400) for _ in range(rng.randrange(3, 40))]
        ids = heads[which] + tail
        groups = labels[which] + [rng.choice(("video", "template")) for _ in tail[1:]] + ["last"]
        schedule = avflow.EvictionSchedule({g: layer for g, layer in steps.items() if g in groups})
        with avflow.evict(model, schedule, groups=groups):
            evicted = answer(ids)
        edges = [0, *(i for i in range(1, len(groups)) if groups[i] != groups[i - 1]), len(groups)]
        runs = [[a, b, groups[a]] for a, b in zip(edges, edges[1:], strict=False)]
        out.append(Request(ids, runs, *evicted, *answer(ids)))
    return out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return decoder(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module")
def requests(checkpoint):
    return make_requests(checkpoint, 40, NEW)


@pytest.mark.parametrize("caching", [False, True])
def test_random_requests(caching, checkpoint, requests, engine):
    served = engine(
        model=str(checkpoint),
        avflow=STEPS,
        limit_mm_per_prompt=None,
        enable_prefix_caching=caching,
        max_model_len=192,
        max_num_seqs=10,
        max_num_batched_tokens=48,
        block_size=32,
        num_gpu_blocks_override=24,
    )
    rng = random.Random(4)
    for _ in range(5):
        chosen = [requests[rng.randrange(len(requests))] for _ in range(50)]
        got = served.generate(
            [{"prompt_token_ids": one.ids} for one in chosen], [{RUNS: one.runs} for one in chosen], NEW
        )
        assert got == [one.answer for one in chosen]
    assert served.seen["preempted"] > 0 and served.seen["running"] > 2
    assert (served.seen["hits"] > 0 and served.seen["copies"] > 0) == caching
    assert served.free == served.free_at_start
