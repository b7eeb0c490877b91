"""`vllm serve`, asked with the openai client: text by ids and runs, a clip with sound, streams, refusals."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from served import MODEL

import avflow
from avflow.synthetic import files

SCHEDULE = {"video": 2, "audio": 2}
NEW = 8


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    openai = pytest.importorskip("openai")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    options = {
        "--host": "127.0.0.1",
        "--port": port,
        "--served-model-name": "tiny",
        "--dtype": "float32",
        "--max-model-len": 512,
        "--max-num-seqs": 4,
        "--block-size": 32,
        "--mm-processor-cache-gb": 0,
        "--limit-mm-per-prompt": '{"video": 1, "audio": 1}',
        "--additional-config": json.dumps({"avflow": SCHEDULE}),
    }
    command = [Path(sys.executable).parent / "vllm", "serve", MODEL, "--enforce-eager", "--trust-request-mm-kwargs"]
    command += [word for pair in options.items() for word in pair]
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    environment |= {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_LOG_STATS_INTERVAL": "1"}
    with open(log, "w") as out:
        server = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, env=environment)
    made = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
    try:
        for _ in range(600):  # a machine may be busy
            if server.poll() is not None:
                pytest.fail(log.read_text()[-3000:])
            try:
                made.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(1)
        made.log = log
        yield made
    finally:
        server.terminate()
        try:
            server.wait(120)
        except subprocess.TimeoutExpired:
            server.kill()
            raise


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """An mp4 with sound as a data URL. The sound is at 16 kHz: vLLM needs torchaudio for any other."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = [np.full((56, 56, 3), 10 * i, np.uint8) for i in range(16)]
    sound = np.sin(np.arange(2 * 16000) / 20).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "SAMPLE_RATE", 16000)
        files.write_media(path, frames, 8, sound)
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def complete(client, ids, **xargs):
    done = client.completions.create(
        model="tiny",
        prompt=ids,
        max_tokens=NEW,
        temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True, "vllm_xargs": xargs},
    )
    return done.choices[0].token_ids


def test_text_with_runs_is_answered_as_by_avflow(client):
    model = avflow.load("tiny-omni", dtype=torch.float32)
    model.hf.generation_config.eos_token_id = None
    ids = torch.randint(0, 256, (70,), generator=torch.Generator().manual_seed(1)).tolist()
    groups = ["template"] * 5 + ["video"] * 40 + ["audio"] * 12 + ["question_text"] * 12 + ["last"]
    want = {}
    for name, schedule in (("some leave", SCHEDULE), ("nothing leaves", {})):
        with avflow.evict(model, avflow.EvictionSchedule(schedule), groups=groups):
            out = model.hf.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False)
        want[name] = out[0, len(ids) :].tolist()
    assert want["some leave"] != want["nothing leaves"]
    runs = json.dumps([[5, 45, "video"], [45, 57, "audio"]])
    assert complete(client, ids, avflow_runs=runs) == want["some leave"]
    assert complete(client, ids, avflow_runs=runs, avflow_off=1) == want["nothing leaves"]
    assert complete(client, ids) == want["nothing leaves"]


def chat(client, clip, stream=False, **xargs):
    question = "Which color is shown?\nA. purple\nB. blue\nC. red\nAnswer with the letter."
    content = [{"type": "video_url", "video_url": {"url": clip}}, {"type": "text", "text": question}]
    size = {"shortest_edge": 3136, "longest_edge": 3136}
    made = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "You see and hear."}, {"role": "user", "content": content}],
        max_tokens=NEW,
        temperature=0,
        stream=stream,
        extra_body={
            "ignore_eos": True,
            "vllm_xargs": xargs,
            "mm_processor_kwargs": {"use_audio_in_video": True, "size": size},
        },
    )
    if stream:
        return "".join(part.choices[0].delta.content or "" for part in made if part.choices)
    return made.choices[0].message.content


def test_a_clip_with_sound(client, clip):
    evicted = chat(client, clip)
    assert evicted and chat(client, clip, stream=True) == evicted
    assert chat(client, clip, avflow_off=1) != evicted
    assert "avflow: video leaves after layer 2" in client.log.read_text()


def metrics(client):
    text = urllib.request.urlopen(str(client.base_url).replace("/v1/", "/metrics")).read().decode()
    return {
        name: sum(float(x) for x in re.findall(rf"^avflow:{name}_total{{.*}} (.*)$", text, re.M))
        for name in ("rows", "rows_saved", "blocks", "blocks_saved")
    }


def test_metrics_and_the_log_say_what_was_saved(client):
    """52 of 70 tokens leave after layer 2 of 12: groups of three layers, blocks of 32."""
    ids = torch.randint(0, 256, (70,), generator=torch.Generator().manual_seed(7)).tolist()
    before = metrics(client)
    complete(client, ids, avflow_runs=json.dumps([[5, 57, "video"]]))
    complete(client, ids, avflow_off=1)
    for _ in range(50):  # counted when the engine's last message is read, which may be after the answer
        now = metrics(client)
        if now["rows"] - before["rows"] > 12 * (70 + NEW - 1):
            break
        time.sleep(0.1)
    all_rows, some_rows = 12 * (70 + NEW - 1), 3 * (70 + NEW - 1) + 9 * (18 + NEW - 1)
    assert now["rows"] - before["rows"] == all_rows + some_rows
    assert now["rows_saved"] - before["rows_saved"] == all_rows - some_rows
    assert now["blocks"] - before["blocks"] == 12 * 3 + 3 * 3 + 9 * 1
    assert now["blocks_saved"] - before["blocks_saved"] == 9 * 2
    line = re.compile(r"avflow: \d+ requests ended: [\d.]+% of rows, [\d.]+% of KV blocks saved")
    for _ in range(150):
        if found := line.findall(client.log.read_text()):
            break
        time.sleep(0.1)
    assert found


def test_refusals_are_answered_with_400(client):
    import openai

    for xargs, message in (({"avflow_runs": "[[0,"}, "no JSON"), ({"avflow_off": "no"}, "avflow_off")):
        with pytest.raises(openai.BadRequestError, match=message):
            complete(client, [1, 2, 3], **xargs)
    assert complete(client, [1, 2, 3])
