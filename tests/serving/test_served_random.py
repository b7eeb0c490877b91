"""Random requests to a random text decoder: batches of chunks, few blocks, a prefix cache; avflow tells the answers."""

import random
import shutil

import pytest
import torch
from served import MODEL
from transformers import Qwen2Config, Qwen2ForCausalLM

import avflow
from avflow_vllm.names import RUNS

NEW, STEPS = 20, {"video": 1, "audio": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen2")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=472,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    Qwen2ForCausalLM(config).float().save_pretrained(folder)
    for path in MODEL.glob("*token*"):
        shutil.copy(path, folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(MODEL / name, folder)
    return folder


@pytest.fixture(scope="module")
def requests(checkpoint):
    """[(ids, runs, greedy tokens under the schedule)]; many begin as another does."""
    hf = Qwen2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model = avflow.wrap(hf)
    rng = random.Random(3)
    heads = [[rng.randrange(400) for _ in range(rng.randrange(20, 110))] for _ in range(6)]
    labels = [[rng.choice(("video", "audio", "question_text"))] * len(head) for head in heads]
    out = []
    for _ in range(40):
        which = rng.randrange(6)
        tail = [rng.randrange(400) for _ in range(rng.randrange(3, 40))]
        ids = heads[which] + tail
        groups = labels[which] + [rng.choice(("video", "template")) for _ in tail[1:]] + ["last"]
        schedule = avflow.EvictionSchedule({g: layer for g, layer in STEPS.items() if g in groups})
        with avflow.evict(model, schedule, groups=groups):
            done = hf.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False)
        edges = [0, *(i for i in range(1, len(groups)) if groups[i] != groups[i - 1]), len(groups)]
        runs = [[a, b, groups[a]] for a, b in zip(edges, edges[1:], strict=False)]
        out.append((ids, runs, done[0, len(ids) :].tolist()))
    return out


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
            [{"prompt_token_ids": ids} for ids, _, _ in chosen], [{RUNS: runs} for _, runs, _ in chosen], NEW
        )
        assert got == [tokens for _, _, tokens in chosen]
    assert served.seen["preempted"] > 0 and served.seen["running"] > 2
    assert (served.seen["hits"] > 0 and served.seen["copies"] > 0) == caching
    assert served.free == served.free_at_start
