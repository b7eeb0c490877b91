"""Train the small model from nothing: `python training/train.py training/config.yaml --out runs/tiny-omni`.

Goes on from the run's last checkpoint after a kill, to the same result: batches follow from their number. `log.jsonl`
holds the loss and the held-out accuracy of every task as training goes; `checkpoint/` the finished model's folder.
"""

from __future__ import annotations

import argparse
import json
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
from network import SIDE, Head, Packed, deepen, make_thinker, make_tokenizer  # noqa: E402

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


def layout(config: dict, out: Path) -> tuple[Blocks, Head, dict]:
    """How questions are laid out, learned from one clip as model.prepare gives it; what makes batches."""
    tokenizer, data = make_tokenizer(), config["data"]
    save_folder(make_thinker(tokenizer, config["model"]), tokenizer, out / "start")
    model = avflow.load(out / "start")
    with tempfile.TemporaryDirectory() as folder:
        path = write_items(make_items("train", 1), folder)
        prompt = model.prepare(avflow.Sample.read_jsonl(path)[0])
    blocks = Blocks(tokenizer, data["choices"], data["open"])
    return blocks, Head.of(model, prompt), {"extractor": model.processor.feature_extractor, "picture": FRAME}


def build(config: dict, blocks: Blocks, head: Head, step: int) -> Packed:
    """The model of this step's stage, with its first weights."""
    torch.manual_seed(config["seed"])
    sizes, stages = config["model"], config["stages"]
    if step < stages["towers"] + stages["shallow"]:
        sizes = sizes | {"layers": stages["shallow_layers"]}
    return Packed(make_thinker(blocks.tokenizer, sizes), head, blocks.lengths, blocks.counts)


def grow(config: dict, shallow: Packed, blocks: Blocks, head: Head, step: int) -> Packed:
    """The whole model, from the shallow one."""
    packed = build(config, blocks, head, step)
    deepen(shallow.thinker, packed.thinker, config["model"]["layers"] // config["stages"]["shallow_layers"])
    for name in ("eyes", "ears", "choice"):
        getattr(packed, name).load_state_dict(getattr(shallow, name).state_dict())
    return packed


def rates(config: dict, step: int) -> tuple[float, float]:
    """Learning rates of towers and decoder at this step."""
    stages, o = config["stages"], config["optimizer"]
    starts = (0, stages["towers"], stages["towers"] + stages["shallow"])
    stage = sum(step >= s for s in starts) - 1
    at = step - starts[stage]
    warm = min(1.0, (at + 1) / o["warmup"])
    if stage == 0:
        return o["towers_rate"] * warm, 0.0
    if stage == 1:
        left = min(1.0, (stages["shallow"] - at) / stages["shallow_fall"])
        rate = warm * (o["whole_rate"] + left * (o["shallow_rate"] - o["whole_rate"]))
    else:
        rate = warm * o["whole_rate"] * min(1.0, (stages["whole"] - at) / stages["fall"])
    return rate, rate


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
def evaluate(packed: Packed, batches: list[dict], choices: int) -> dict[str, float]:
    """Share of right answers per task: multiple choice (letter of the three or two), and open ("color (open)")."""
    packed.eval()
    hits: dict[str, list] = {}
    for batch in batches:
        logits, _ = packed.answers(batch, *packed.see_and_hear(batch))  # [B, questions, vocab]
        right = logits.argmax(-1) == batch["targets"]
        for column in range(right.shape[1]):
            kind = "" if column < choices else " (open)"
            for row in range(right.shape[0]):
                task = TASK_NAMES[int(batch["tasks"][row, column])]
                hits.setdefault(task + kind, []).append(bool(right[row, column]))
    packed.train()
    return {k: round(sum(v) / len(v), 4) for k, v in sorted(hits.items())}


def train(config: dict, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config["threads"])
    stages, data, o = config["stages"], config["data"], config["optimizer"]
    deep_from = stages["towers"] + stages["shallow"]
    total = deep_from + stages["whole"]
    blocks, head, parts = layout(config, out)
    held = Batches(blocks, **parts, split="heldout", seed=config["seed"] + 1, scenes=16, balanced=True)
    held = [held[i] for i in range(config["evaluate"]["scenes"] // held.scenes)]
    state_file, state = out / "state.pt", {"step": 0, "seconds": 0.0}
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        _cut_log(out / "log.jsonl", state["step"])
    first, seconds = state["step"], state["seconds"]
    packed = build(config, blocks, head, first - 1)  # a state at the stage's border is still the shallow model
    optimizer = make_optimizer(packed, config)
    if "model" in state:
        packed.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    batches = Batches(blocks, **parts, split="train", seed=config["seed"], scenes=data["scenes"], late=stages["later"])
    source = stream(batches, range(first, total), data["workers"])
    begin, running = time.perf_counter() - seconds, {}
    for step in range(first, total):
        if step == deep_from:
            packed = grow(config, packed, blocks, head, step)
            optimizer = make_optimizer(packed, config)
        batch = next(source)
        low, high = rates(config, step)
        for group in optimizer.param_groups:
            group["lr"] = low if group["tower"] else high
        video, audio = packed.see_and_hear(batch)
        probe = packed.probe_loss(batch, video, audio, motion=step >= stages["later"])
        if step < stages["towers"]:
            loss = probe
        else:
            logits, choice = packed.answers(batch, video, audio)
            answer = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
            loss = answer + o["choice_weight"] * choice + o["probe_weight"] * probe
            _note(running, "loss", answer.item())
            _note(running, "choice", choice.item())
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
                line["heldout"] = evaluate(packed, held, blocks.counts[0])
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
