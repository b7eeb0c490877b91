"""In half precision, which a GPU's FlashAttention and FlashInfer ask for: as near to float32 as without eviction.

Tokens need not be equal there. A random decoder with heads of 64, which every kernel has; avflow in float32 tells what
is right, with and without the schedule.
"""

import os

import pytest
import torch
from served import ENGINE
from test_served_random import STEPS, decoder, make_requests

from avflow_vllm.names import OFF, RUNS

COUNT, NEW = 24, 12


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The checkpoint, and requests with what they are."""
    folder = decoder(tmp_path_factory.mktemp("half"), hidden_size=256, initializer_range=0.05)
    return folder, make_requests(folder, COUNT, NEW)


def first(served, requests, extras):
    """Log-probabilities of the first token: float [requests, vocabulary]."""
    params = [served.params(extra, 1, logprobs=-1) for extra in extras]
    outputs = served.llm.generate(requests, params, use_tqdm=False)
    found = [out.outputs[0].logprobs[0] for out in outputs]
    return torch.tensor([[one[token].logprob for token in range(len(one))] for one in found])


@pytest.mark.skipif(ENGINE.get("dtype") == "float32", reason="exact there: test_served_random.py")
def test_as_near_as_without_eviction(half, engine):
    folder, requests = half
    served = engine(
        model=str(folder),
        avflow=STEPS,
        limit_mm_per_prompt=None,
        dtype=ENGINE.get("dtype", "float16"),
        max_model_len=192,
        max_num_seqs=8,
        max_num_batched_tokens=96,
        max_logprobs=-1,
    )
    prompts = [{"prompt_token_ids": one.ids} for one in requests]
    on, off = [{RUNS: one.runs} for one in requests], [{OFF: 1}] * len(requests)
    right = {True: torch.stack([one.logprobs for one in requests])}
    right[False] = torch.stack([one.plain_logprobs for one in requests])
    found = {True: first(served, prompts, on), False: first(served, prompts, off)}
    error = {evicts: float((found[evicts] - right[evicts]).abs().mean()) for evicts in (True, False)}
    other = float((right[True] - right[False]).abs().mean())
    same = {}
    for evicts, extras, key in ((True, on, "answer"), (False, off, "plain")):
        tokens = served.generate(prompts, extras, NEW)
        wanted = [getattr(one, key) for one in requests]
        same[evicts] = sum(a == b for x, y in zip(tokens, wanted, strict=True) for a, b in zip(x, y, strict=True))
    line = (
        f"mean |d log-prob| of the first token: evicted {error[True]:.5f}, not evicted {error[False]:.5f}, the two "
        f"apart {other:.5f}; equal tokens of {COUNT * NEW}: evicted {same[True]}, not evicted {same[False]}"
    )
    print(line)
    if "AVFLOW_TEST_LINES" in os.environ:
        with open(os.environ["AVFLOW_TEST_LINES"], "a") as file:
            print(line, file=file)
    assert error[True] <= 2 * error[False] + 1e-3, line
    assert other > 10 * error[True], line
    assert same[True] >= same[False] - COUNT * NEW // 5, line
    assert served.free == served.free_at_start
