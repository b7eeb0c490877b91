"""Interleaved items in training: rows of candidates and question, then one block per reference, packed like scenes.

Candidates and question stand before the reference, so four references share their states.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from families import FAMILIES, SIDE
from network import causal_blocks

import avflow
from avflow.media import resize
from avflow.media.images import TorchImages
from avflow.synthetic import LINEUP_TASKS, make_items, make_lineup, write_items
from avflow.synthetic.lineup import CANDIDATES, PAIRS, SOUND_SECONDS

LINEUP_NAMES = list(LINEUP_TASKS)
MEL_FRAMES = round(100 * SOUND_SECONDS)


@dataclass(frozen=True)
class LineupRows:
    """How a row of one task is laid out; the same for all, but for its media.

    ids [N], positions [3, N] (t, h, w), packing: as network.Packed takes them. last [4]: where each block's last token
    is. letters [4, 4]: where the option letters of each block are. targets [4]: the letter that answers each block.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    packing: tuple
    last: torch.Tensor
    letters: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, model, task: str) -> LineupRows:
        """From one prompt of the task, as model.prepare gives it."""
        with tempfile.TemporaryDirectory() as folder:
            path = write_items(make_items("train", 1, tasks=[task]), folder)
            prompt = model.prepare(avflow.Sample.read_jsonl(path)[0])
        ids, positions = prompt.input_ids, FAMILIES["qwen2_5_omni"].positions(model, prompt)  # [n], [3, n]
        p = prompt.groups.index("reference") - 1  # the mark before it opens the block
        length = len(ids) - p
        starts = p + length * torch.arange(CANDIDATES)  # of the blocks
        options = [(g.startswith("option"), i) for g, i in zip(prompt.groups, prompt.items, strict=True)]
        letters = [options.index((True, i)) - p for i in range(CANDIDATES)]
        return cls(
            torch.cat([ids[:p], ids[p:].repeat(CANDIDATES)]),
            torch.cat([positions[:, :p], positions[:, p:].repeat(1, CANDIDATES)], 1),
            (p, [causal_blocks(CANDIDATES, length, p)]),
            starts + length - 1,
            starts[:, None] + torch.tensor(letters),
            torch.tensor(prompt.option_ids),
        )


class LineupBatches:
    """Batch number -> {task: tensors}, as model.prepare gives them. picture: settings of images."""

    def __init__(self, extractor, picture: dict, split: str, seed: int, scenes: int) -> None:
        self.extractor, self.images = extractor, TorchImages(picture)
        self.split, self.seed, self.scenes = split, seed, scenes

    def __getitem__(self, number: int) -> dict[str, dict[str, torch.Tensor]]:
        rng = np.random.default_rng([self.seed, self.split == "train", number, *b"lineups"])
        return {
            task: self._batch([make_lineup(rng, self.split, task) for _ in range(self.scenes)]) for task in LINEUP_NAMES
        }

    def _batch(self, lineups: list) -> dict[str, torch.Tensor]:
        """patches of the images and mel of the sounds, in the order of the rows; colors [lineups, 4] of their pairs."""
        heard = LINEUP_TASKS[lineups[0].task].reference == "audio"
        media = [[m for line in lineups for m in getattr(line, name)] for name in ("candidates", "references")]
        sights, tones = media if heard else reversed(media)
        pixels = [torch.from_numpy(s.draw()).permute(2, 0, 1).contiguous() for s in sights]
        seen = self.images([resize(x, SIDE, SIDE) for x in pixels], {"shortest_edge": SIDE**2, "longest_edge": SIDE**2})
        mel = self.extractor(
            [t.waveform() for t in tones], sampling_rate=16000, padding="max_length", return_tensors="pt"
        )["input_features"][..., :MEL_FRAMES]
        return {
            "patches": seen["pixel_values"],
            "grid": seen["image_grid_thw"],
            "mel": mel.contiguous(),
            "colors": torch.tensor([[list(PAIRS).index(c.color) for c in line.candidates] for line in lineups]),
        }
