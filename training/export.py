"""Put a finished run into the package: `python training/export.py runs/tiny-omni`, by the name of its folder.

Copies the checkpoint's folder to avflow-models and the log to training, and writes MODEL_CARD.md with the
accuracy of these weights on held-out samples that are made for it, as mp4, png and wav files read by model.prepare.
`--card-only` writes the card of the package's present weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
import yaml
from stages import STAGES

import avflow
from avflow import weights
from avflow.synthetic import LINEUP_TASKS, TASKS, make_items, write_items
from avflow.synthetic.lineup import CANDIDATES

HERE = Path(__file__).parent


@torch.no_grad()
def accuracy(model, path: Path) -> dict[str, tuple[float, ...]]:
    """Share of right answers per task of a samples file: with options, and, of clips, as a word without them."""
    hits: dict[str, list[tuple[bool, ...]]] = {}
    for sample in avflow.Sample.read_jsonl(path):
        asked_as = [sample]
        if sample.candidates is None:
            word = sample.options[sample.answer_index]
            asked_as.append(avflow.Sample(sample.id, sample.question, answer=word, video=sample.video))
        right = []
        for asked in asked_as:
            prompt = model.prepare(asked)
            logits = model.hf(**prompt.model_inputs).logits[0, -1]  # [vocab]
            right.append(int(logits.argmax()) == prompt.answer_ids[0])
        hits.setdefault(sample.task, []).append(tuple(right))
    return {
        task: tuple(sum(column) / len(found) for column in zip(*found, strict=True)) for task, found in hits.items()
    }


def card(name: str, config: dict, seconds: float, clips: int, seed: int) -> str:
    """The model card of the package's weights of that name, with figures measured now."""
    model, lineups = avflow.load(name), LINEUP_TASKS if config["stages"]["interleaved"] else {}
    with tempfile.TemporaryDirectory() as folder:
        tasks = [*TASKS, *lineups]
        found = accuracy(model, write_items(make_items("heldout", clips * len(tasks), seed, tasks), folder))
    rows = []
    for task in TASKS.values():
        shares = " | ".join(f"{100 * share:.1f} %" for share in (1 / task.shown, *found[task.name]))
        rows.append(f"| {task.name} | {task.needs} | {shares} |")
    for task in lineups:
        rows.append(f"| {task} | both | {100 / CANDIDATES:.1f} % | {100 * found[task][0]:.1f} % | - |")
    stages, data = config["stages"], config["data"]
    questions = data["choices"] + data["open"]
    added = stages["interleaved"] * stages["interleaved_scenes"]
    numbers = [stages[stage] for stage in STAGES if stages[stage]]
    text = "".join((HERE / file).read_text(encoding="utf-8") for file in (f"{name}.md", "card.md"))
    return text.format(
        million=sum(p.numel() for p in model.hf.parameters()) / 1e6,
        layers=model.n_layers,
        hidden=model.config.hidden_size,
        stages=f"{' + '.join(map(str, numbers))} steps in {('three', 'four')[len(numbers) - 3]}",
        scenes=data["scenes"],
        questions=questions,
        total=(stages["shallow"] + stages["whole"]) * data["scenes"] * questions + added * questions,
        lineups=added * len(LINEUP_TASKS) * CANDIDATES,
        fewer=stages["interleaved_scenes"],
        minutes=seconds / 60,
        threads=config["threads"],
        shallow=stages["shallow_layers"],
        later=stages["later"],
        split=model.n_layers // stages["shallow_layers"],
        clips=clips,
        seed=seed,
        shown=3,
        rows="\n".join(rows),
        interval=98 / clips**0.5,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clips", type=int, default=100, help="held-out clips per task")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--card-only", action="store_true")
    a = parser.parse_args()
    name = a.run.name
    if name not in weights.NAMES:
        parser.error(f"{a.run}: there are models named {', '.join(weights.NAMES)}; name the run's folder so")
    config, log, to = HERE / f"{name}.yaml", HERE / f"{name}.jsonl", weights.folder(name)
    if not a.card_only:
        shutil.copytree(a.run / "checkpoint", to, dirs_exist_ok=True)
        (to / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
        shutil.copyfile(a.run / "log.jsonl", log)
    seconds = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["seconds"]
    text = card(name, yaml.safe_load(config.read_text(encoding="utf-8")), seconds, a.clips, a.seed)
    (to / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
