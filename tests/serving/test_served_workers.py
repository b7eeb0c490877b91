"""Two tensor-parallel workers, and an engine in a process of its own: a plan reaches them with its request alone."""

import json
import os
import pickle
import signal
import subprocess
import sys

import pytest
from served import MODEL, NEW

SCRIPT = """
import json, pickle, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    model, new, path = sys.argv[1:]
    with open(path, "rb") as file:
        requests = pickle.load(file)
    llm = LLM(model, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=8, max_num_batched_tokens=512,
              block_size=32, limit_mm_per_prompt={"video": 1, "audio": 1, "image": 0}, mm_processor_cache_gb=0,
              tensor_parallel_size=2, additional_config={"avflow": {"video": 3, "audio": 7}})
    params = [SamplingParams(temperature=0, max_tokens=int(new), ignore_eos=True,
                             extra_args={"avflow_off": 1} if i % 3 == 2 else None) for i in range(len(requests))]
    out = llm.generate(requests, params, use_tqdm=False)
    print("TOKENS", json.dumps([list(one.outputs[0].token_ids) for one in out]))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each worker is bound to a core of its own")
def test_two_workers(asked, tmp_path):
    script, data, log = (tmp_path / name for name in ("script.py", "requests.pickle", "log.txt"))
    script.write_text(SCRIPT)
    data.write_bytes(pickle.dumps([one.request() for one in asked[:12]]))
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    command = [sys.executable, str(script), str(MODEL), str(NEW), str(data)]
    with open(log, "w") as out:
        made = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        made.wait(800)
    finally:
        if made.poll() is None:
            os.killpg(made.pid, signal.SIGKILL)  # its workers are processes too
    found = [line for line in log.read_text().splitlines() if line.startswith("TOKENS ")]
    assert found, log.read_text()[-4000:]
    got = json.loads(found[0].removeprefix("TOKENS "))
    assert got == [one.answers["" if i % 3 == 2 else "two layers"] for i, one in enumerate(asked[:12])]
