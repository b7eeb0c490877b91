"""Everything a first sweep needs: clips with sound, questions about them, and a model.

`held_out`: a trained model of the package and questions that it has not seen. `make`: a checkpoint of random weights,
which shows that every stage runs, on real files, and answers nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError

VERSION = 3  # raise it when what is made changes: older folders are then made again
TASKS = ("color", "shape", "pitch", "tone_shape")  # seen, heard, and both; ten of each take some two minutes
ITEM_TASKS = ("find_image", "find_sound")  # interleaved items


def make(
    folder, clips: int = 6, seconds: float = 4.0, size: Any = None, family: str = "qwen2_5_omni"
) -> dict[str, Any]:
    """Write the demo's files to `folder` and tell where they are. What is already there, and the same, is kept.

    Args:
        clips: how many; each has two samples. seconds: length of each. size: a checkpoint.Tiny.
        family: of the checkpoint, one of checkpoint.FAMILIES.

    Returns:
        checkpoint: its folder. samples: the JSONL file. clips: list of mp4 files. All are paths as text. window: width
        of a sweep's window that suits its layers. random: bool, are the weights random.
    """
    from .checkpoint import Tiny, build
    from .clips import write_clip
    from .samples import make_clips, make_samples

    size, folder = size or Tiny(), Path(folder)
    wanted = make_clips(clips, seconds)
    paths = [folder / "clips" / f"{clip.name}.mp4" for clip in wanted]
    found: dict[str, Any] = {"checkpoint": str(folder / "checkpoint"), "samples": str(folder / "samples.jsonl")}
    found |= {"clips": [str(path) for path in paths], "window": 3, "random": True}
    state = {
        "version": VERSION,
        "clips": [asdict(clip) for clip in wanted],
        "checkpoint": asdict(size),
        "family": family,
    }
    stamp = folder / "demo.json"  # written last: a folder without it was left half way
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == json.dumps(state) and _all_there(found):
        return found
    stamp.unlink(missing_ok=True)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for clip, path in zip(wanted, paths, strict=True):
        write_clip(clip, path)
    relative = [path.relative_to(folder) for path in paths]
    lines = [sample.to_json() for sample in make_samples(wanted, relative)]
    Path(found["samples"]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    build(found["checkpoint"], family, size)
    stamp.write_text(json.dumps(state), encoding="utf-8")
    return found


def held_out(
    folder,
    each: int = 10,
    tasks: tuple[str, ...] = TASKS,
    item_tasks: tuple[str, ...] = ITEM_TASKS,
    model: str = "tiny-omni",
) -> dict[str, Any]:
    """A model that comes with the package, and held-out questions for it, written to `folder`; told as `make` does.

    Args:
        each: questions of every task. tasks: of avflow.synthetic.TASKS. item_tasks: of its LINEUP_TASKS; their file,
            "items", is in a folder of its own, and holds twice as many of each: they are short. A model that does not
            read interleaved items gets none. model: one of avflow.weights.NAMES.

    Raises:
        InputError: the package has no such model.
    """
    from .. import weights
    from ..checkpoints import read_json
    from ..models import family_of
    from ..synthetic import make_items, write_items

    if model not in weights.NAMES:
        raise InputError(f"model {model!r}: the package has {' and '.join(weights.NAMES)}")
    folder = Path(folder)
    items = make_items("heldout", each * len(tasks), tasks=tasks)
    samples = write_items(items, folder)
    clips = [str(folder / "clips" / f"{item.id}.mp4") for item in items]
    made = {"checkpoint": model, "samples": str(samples), "clips": clips, "window": 3, "random": False}
    if family_of(read_json(weights.folder(model) / "config.json"), model).takes_candidates:
        lineups = make_items("heldout", 2 * each * len(item_tasks), tasks=item_tasks)
        made["items"] = str(write_items(lineups, folder / "items"))
    return made


def _all_there(found: dict[str, Any]) -> bool:
    files = [*found["clips"], found["samples"], str(Path(found["checkpoint"]) / "model.safetensors")]
    return all(Path(file).is_file() for file in files)
