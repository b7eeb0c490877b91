"""Train the small model from nothing: `python training/train.py training/config.yaml --out runs/tiny-omni`.

Goes on from the run's last checkpoint after a kill, to the same result: batches follow from their number. `log.jsonl`
holds the loss and the held-out accuracy of every task as training goes; `checkpoint/` the finished model's folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml

import avflow
from avflow.compat import declare_torchvision

declare_torchvision()
sys.path.insert(0, str(Path(__file__).parent))

from batches import TASK_NAMES, Batches, Blocks, stream  # noqa: E402
from network import SIDE, Head, Packed, make_thinker, make_tokenizer  # noqa: E402

from avflow.demo import omni  # noqa: E402
from avflow.demo.tokenizer import save_tokenizer  # noqa: E402
from avflow.demo.weights import PICTURE  # noqa: E402
from avflow.synthetic import make_items, write_items  # noqa: E402

FRAME = PICTURE | {"min_pixels": SIDE**2, "max_pixels": SIDE**2}


def save_folder(thinker, tokenizer, folder: Path) -> None:
    """A checkpoint folder that avflow.load and transformers' from_pretrained read; weights as bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, omni.MEDIA_TOKENS, omni.CHAT_TEMPLATE, folder)
    omni.save_preprocessors(folder, FRAME, seconds=8)
    omni.save_thinker(thinker, tokenizer, folder, torch.bfloat16)


def build(config: dict, out: Path) -> tuple[Packed, Blocks, dict]:
    """The model with its first weights, and how questions are laid out, learned from one prepared clip."""
    torch.manual_seed(config["seed"])
    tokenizer, data = make_tokenizer(), config["data"]
    save_folder(make_thinker(tokenizer, config["model"]), tokenizer, out / "start")
    model = avflow.load(out / "start")
    with tempfile.TemporaryDirectory() as folder:
        path = write_items(make_items("train", 1), folder)
        prompt = model.prepare(avflow.Sample.read_jsonl(path)[0])
    torch.manual_seed(config["seed"])
    thinker = make_thinker(tokenizer, config["model"])  # again, not rounded to bfloat16
    model.hf = thinker
    blocks = Blocks(tokenizer, data["choices"], data["open"])
    packed = Packed(thinker, Head.of(model, prompt), blocks.lengths, blocks.counts)
    return packed, blocks, {"extractor": model.processor.feature_extractor, "picture": FRAME}


def rates(config: dict, step: int) -> tuple[float, float, float]:
    """Learning rates of towers and decoder at this step, and the share of the whole run's second stage that is done."""
    stages, o = config["stages"], config["optimizer"]
    if step < stages["towers"]:
        return o["towers_rate"] * min(1.0, (step + 1) / o["warmup"]), 0.0, 0.0
    at = step - stages["towers"]
    share = at / stages["whole"]
    rate = o["decoder_rate"] * min(1.0, (at + 1) / o["warmup"]) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
    return rate / 3, rate, share


def make_optimizer(packed: Packed, config: dict):
    groups: dict[tuple[bool, bool], list] = {}
    for name, p in packed.named_parameters():
        tower = any(part in name for part in ("visual", "audio_tower", "eyes", "ears"))
        groups.setdefault((tower, p.ndim >= 2 and "embed" not in name), []).append(p)
    o = config["optimizer"]
    sets = [
        {"params": ps, "tower": tower, "weight_decay": o["weight_decay"] if decay else 0.0}
        for (tower, decay), ps in groups.items()
    ]
    return torch.optim.AdamW(sets, lr=0.0, betas=tuple(o["betas"]), fused=True)


@torch.no_grad()
def evaluate(packed: Packed, batches: Batches, count: int) -> dict[str, float]:
    """Share of right answers per task: multiple choice (letter of the three or two), and open ("color (open)")."""
    packed.eval()
    hits: dict[str, list] = {}
    for number in range(count):
        batch = batches[number]
        logits = packed.answers(batch, *packed.see_and_hear(batch))  # [B, questions, vocab]
        right = logits.argmax(-1) == batch["targets"]
        for column in range(right.shape[1]):
            kind = "" if column < batches.blocks.counts[0] else " (open)"
            for row in range(right.shape[0]):
                task = TASK_NAMES[int(batch["tasks"][row, column])]
                hits.setdefault(task + kind, []).append(bool(right[row, column]))
    packed.train()
    return {k: round(sum(v) / len(v), 4) for k, v in sorted(hits.items())}


def train(config: dict, out: Path, workers: int | None = None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config["threads"])
    packed, blocks, parts = build(config, out)
    stages, data, o = config["stages"], config["data"], config["optimizer"]
    total = stages["towers"] + stages["whole"]
    held_blocks = Blocks(blocks.tokenizer, *blocks.counts)
    held = Batches(held_blocks, **parts, split="heldout", seed=config["seed"] + 1, scenes=16, balanced=True)
    optimizer = make_optimizer(packed, config)
    state_file, step, seconds = out / "state.pt", 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        packed.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
        _cut_log(out / "log.jsonl", step)
    batches = Batches(blocks, **parts, split="train", seed=config["seed"], scenes=data["scenes"])
    source = stream(batches, range(step, total), data["workers"])
    begin, running = time.perf_counter() - seconds, {}
    for step in range(step, total):
        batch = next(source)
        low, high, _ = rates(config, step)
        for group in optimizer.param_groups:
            group["lr"] = low if group["tower"] else high
        video, audio = packed.see_and_hear(batch)
        probe = packed.probe_loss(batch, video, audio)
        if step < stages["towers"]:
            loss = probe
        else:
            logits = packed.answers(batch, video, audio)
            answer = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
            loss = answer + o["probe_weight"] * probe
            _note(running, "loss", answer.item())
            right = logits.argmax(-1) == batch["targets"]
            for column in range(right.shape[1]):
                kind = "" if column < blocks.counts[0] else " (open)"
                for row in range(right.shape[0]):
                    _note(running, TASK_NAMES[int(batch["tasks"][row, column])] + kind, float(right[row, column]))
        _note(running, "probe", probe.item())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(packed.parameters(), o["clip"])
        optimizer.step()
        done, every = step + 1, config["evaluate"]["every"]
        if done % every == 0 or done == total:
            line = {"step": done, "seconds": round(time.perf_counter() - begin, 1), "rate": high or low}
            line |= {"train": {k: round(sum(v) / len(v), 4) for k, v in sorted(running.items())}}
            if done > stages["towers"]:
                line["heldout"] = evaluate(packed, held, config["evaluate"]["scenes"] // held.scenes)
            running = {}
            with open(out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if done % config["save_every"] == 0 or done == total:
            state = {"model": packed.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            torch.save(state | {"seconds": time.perf_counter() - begin}, out / "state.tmp")
            os.replace(out / "state.tmp", state_file)
    save_folder(packed.thinker, blocks.tokenizer, out / "checkpoint")


def _note(running: dict, name: str, value: float) -> None:
    running.setdefault(name, []).append(value)


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: it will be trained, and logged, again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    train(yaml.safe_load(arguments.config.read_text(encoding="utf-8")), arguments.out)
