"""Questions that a model of avflow-models has not seen, written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import weights
from ..errors import InputError
from ..models import family_of
from ..models.checkpoints import read_json
from ..synthetic import make_items, write_items

TASKS = ("color", "shape", "pitch", "tone_shape")  # seen, heard, and both; ten of each take some two minutes
ITEM_TASKS = ("find_image", "find_sound")  # interleaved items


def held_out(
    folder: str | Path,
    each: int = 10,
    tasks: tuple[str, ...] = TASKS,
    item_tasks: tuple[str, ...] = ITEM_TASKS,
    model: str = "tiny-omni",
) -> dict[str, Any]:
    """A model of avflow-models, and held-out questions for it, written to `folder`.

    Args:
        each: questions of every task. tasks: of avflow.synthetic.TASKS. item_tasks: of its LINEUP_TASKS; their file,
            "items", is in a folder of its own, and holds twice as many of each: they are short. A model that does not
            read interleaved items gets none. model: one of avflow.weights.NAMES.

    Returns:
        checkpoint: the model's name. samples: the JSONL file. clips: list of mp4 files. window: width of a sweep's
        window that suits the layers. items: the JSONL file of interleaved items, where the model reads them.

    Raises:
        InputError: no such model, or the package avflow-models is not installed.
    """
    if model not in weights.NAMES:
        raise InputError(f"model {model!r}: avflow-models has {' and '.join(weights.NAMES)}")
    checkpoint = weights.folder(model)
    folder = Path(folder)
    items = make_items("heldout", each * len(tasks), tasks=tasks)
    samples = write_items(items, folder)
    clips = [str(folder / "media" / f"{item.id}.mp4") for item in items]
    made = {"checkpoint": model, "samples": str(samples), "clips": clips, "window": 3}
    if family_of(read_json(checkpoint / "config.json"), model).takes_candidates:
        lineups = make_items("heldout", 2 * each * len(item_tasks), tasks=item_tasks)
        made["items"] = str(write_items(lineups, folder / "items"))
    return made
