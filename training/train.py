"""Train a small model from nothing: `python training/train.py training/tiny-omni.yaml --out runs/tiny-omni`.

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
from avflow.models.compat import declare_torchvision

declare_torchvision()
sys.path.insert(0, str(Path(__file__).parent))

from batches import TASK_NAMES, Batches, Blocks, stream  # noqa: E402
from families import FAMILIES, FRAME  # noqa: E402
from lineups import LINEUP_NAMES, LineupBatches, LineupRows  # noqa: E402
from network import Head, Packed, deepen, make_model, make_tokenizer  # noqa: E402
from stages import make_optimizer, rates, stage_of, starts  # noqa: E402

from avflow.synthetic import make_items, write_items  # noqa: E402


def layout(config: dict, out: Path) -> tuple[Blocks, Head, dict, dict[str, LineupRows]]:
    """How questions and interleaved items are laid out, learned from one of each as model.prepare gives it.

    Third: what makes batches. Fourth: empty where no interleaved items are trained.
    """
    family, data = family_of(config), config["data"]
    tokenizer = make_tokenizer(family)
    family.save(make_model(family, tokenizer, config["model"]), tokenizer, config["model"], out / "start")
    model = avflow.load(out / "start")
    with tempfile.TemporaryDirectory() as folder:
        path = write_items(make_items("train", 1), folder)
        prompt = model.prepare(avflow.Sample.read_jsonl(path)[0])
    blocks = Blocks(tokenizer, data["choices"], data["open"], family.before_text)
    parts = {"extractor": model.processor.feature_extractor, "picture": FRAME}
    lineups = LINEUP_NAMES if config["stages"]["interleaved"] else []
    return blocks, Head.of(family, model, prompt), parts, {task: LineupRows.of(model, task) for task in lineups}


def family_of(config: dict):
    return FAMILIES[config["model"]["family"]]


def build(config: dict, blocks: Blocks, head: Head, step: int) -> Packed:
    """The model of this step's stage, with its first weights."""
    torch.manual_seed(config["seed"])
    sizes = config["model"]
    if step < starts(config)["whole"]:
        sizes = sizes | {"layers": config["stages"]["shallow_layers"]}
    family = family_of(config)
    return Packed(family, make_model(family, blocks.tokenizer, sizes), head, blocks.lengths, blocks.counts)


def grow(config: dict, shallow: Packed, blocks: Blocks, head: Head, step: int) -> Packed:
    """The whole model, from the shallow one."""
    packed = build(config, blocks, head, step)
    deepen(shallow.hf, packed.hf, config["model"]["layers"] // config["stages"]["shallow_layers"])
    for name in ("eyes", "ears", "windows", "choice", "pair"):
        if getattr(shallow, name) is not None:
            getattr(packed, name).load_state_dict(getattr(shallow, name).state_dict())
    return packed


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


@torch.no_grad()
def evaluate_lineups(packed: Packed, batch: dict, rows: dict[str, LineupRows]) -> dict[str, float]:
    """Share of right letters per task of interleaved items."""
    packed.eval()
    found = {}
    for task, part in batch.items():
        logits, _, _ = packed.lineup_answers(rows[task], part, *packed.see_and_hear(part))  # [B, 4, vocab]
        found[task] = round(float((logits.argmax(-1) == rows[task].targets).float().mean()), 4)
    packed.train()
    return found


def clips_loss(packed: Packed, batch: dict, config: dict, step: int, choices: int, note: dict) -> torch.Tensor:
    """Loss of a batch of questions about clips, in the stage of this step."""
    o, stage = config["optimizer"], stage_of(config, step)
    video, audio = packed.see_and_hear(batch)
    probe = torch.zeros(())
    if stage != "interleaved":
        probe = packed.probe_loss(batch, video, audio, motion=step >= config["stages"]["later"])
        _note(note, "probe", probe.item())
    if stage == "towers":
        return probe
    logits, choice = packed.answers(batch, video, audio)
    answer = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    _note(note, "loss", answer.item())
    _note(note, "choice", choice.item())
    right = logits.argmax(-1) == batch["targets"]
    for column in range(right.shape[1]):
        kind = "" if column < choices else " (open)"
        for row in range(right.shape[0]):
            _note(note, TASK_NAMES[int(batch["tasks"][row, column])] + kind, float(right[row, column]))
    return answer + o["choice_weight"] * choice + o["probe_weight"] * probe


def lineups_loss(packed: Packed, batch: dict, config: dict, rows: dict[str, LineupRows], note: dict) -> torch.Tensor:
    """Loss of a batch of interleaved items, over all tasks."""
    o, loss = config["optimizer"], torch.zeros(())
    for task, part in batch.items():
        logits, choice, pair = packed.lineup_answers(rows[task], part, *packed.see_and_hear(part))
        answer = F.cross_entropy(logits.flatten(0, 1), rows[task].targets.repeat(len(logits)))
        loss = loss + answer + o["choice_weight"] * choice + o["pair_weight"] * pair
        _note(note, "loss (interleaved)", answer.item())
        _note(note, "pair", pair.item())
        _note(note, task, float((logits.argmax(-1) == rows[task].targets).float().mean()))
    return loss


def train(config: dict, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config["threads"])
    begins, data, scenes = starts(config), config["data"], config["evaluate"]["scenes"]
    blocks, head, parts, rows = layout(config, out)
    family = family_of(config)
    held = Batches(family, blocks, **parts, split="heldout", seed=config["seed"] + 1, scenes=16, balanced=True)
    held = [held[i] for i in range(scenes // held.scenes)]
    state_file = out / "state.pt"
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        _cut_log(out / "log.jsonl", state["step"])
    else:
        state = {"step": 0, "seconds": 0.0}
    first, seconds = state["step"], state["seconds"]
    # A state at a stage's border is still the model of the stage before.
    packed = build(config, blocks, head, first - 1)
    optimizer = make_optimizer(packed, config)
    if "model" in state:
        packed.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    lineups = held_lineups = None
    if rows:
        few = config["stages"]["interleaved_scenes"]
        lineups = LineupBatches(**parts, split="train", seed=config["seed"], scenes=few)
        held_lineups = LineupBatches(**parts, split="heldout", seed=config["seed"] + 1, scenes=max(scenes // 8, 1))[0]
    batches = Batches(
        family, blocks, **parts, split="train", seed=config["seed"], scenes=data["scenes"],
        late=config["stages"]["later"], often=data["often"], kinds=data["kinds"], lineups=lineups,
        lineups_from=begins["interleaved"],
    )  # fmt: skip
    source = stream(batches, range(first, begins["end"]), data["workers"])
    begin, running = time.perf_counter() - seconds, {}
    for step in range(first, begins["end"]):
        if step == begins["whole"]:
            packed = grow(config, packed, blocks, head, step)
        if step in (begins["whole"], begins["interleaved"]):
            optimizer = make_optimizer(packed, config)
        batch = next(source)
        low, high = rates(config, step)
        for group in optimizer.param_groups:
            group["lr"] = low if group["tower"] else high
        optimizer.zero_grad(set_to_none=True)
        clips_loss(packed, batch, config, step, blocks.counts[0], running).backward()
        if "lineups" in batch:
            lineups_loss(packed, batch["lineups"], config, rows, running).backward()
        torch.nn.utils.clip_grad_norm_(packed.parameters(), config["optimizer"]["clip"])
        optimizer.step()
        done, every = step + 1, config["evaluate"]["every"]
        if done % every == 0 or done == begins["end"]:
            line = {"step": done, "seconds": round(time.perf_counter() - begin, 1), "rate": high or low}
            line |= {"train": {k: round(sum(v) / len(v), 4) for k, v in sorted(running.items())}}
            if done > begins["shallow"]:
                line["heldout"] = evaluate(packed, held, blocks.counts[0])
            if done > begins["interleaved"]:
                line["heldout"] |= evaluate_lineups(packed, held_lineups, rows)
            running = {}
            with open(out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if done % config["save_every"] == 0 or done == begins["end"]:
            state = {"model": packed.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            torch.save(state | {"seconds": time.perf_counter() - begin}, out / "state.tmp")
            os.replace(out / "state.tmp", state_file)
    family.save(packed.hf, blocks.tokenizer, config["model"], out / "checkpoint")


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
