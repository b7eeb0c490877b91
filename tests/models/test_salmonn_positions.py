"""Positions of video-SALMONN 2+: the published ones, the definition token by token, batches, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from salmonn_golden import CASES, FOLDER, LAYOUTS, golden, inputs

from avflow.errors import InputError
from avflow.models.video_salmonn2_plus import VideoSalmonn2PlusConfig, rope_index

CONFIG = VideoSalmonn2PlusConfig.from_published(json.loads((FOLDER / "config.json").read_text()))
SMALL = json.loads((Path(__file__).parents[1] / "fixtures/video_salmonn2_plus_processor/processor.json").read_text())[
    "positions"
]
IDS = {"t": 5, "s": 329, "e": 330, "i": 332, "v": 333, "a": 342}


def ids(text: str) -> torch.Tensor:
    return torch.tensor([IDS[letter] for letter in text])


@pytest.mark.parametrize("letter", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_published(case, letter):
    given = inputs(case)
    found, delta = rope_index(
        given["input_ids"],
        CONFIG,
        video_grid_thw=given.get("video_grid_thw"),
        video_second_per_grid=given.get("video_second_per_grid"),
        layout=LAYOUTS[letter],
    )
    assert torch.equal(found, golden()[f"{case}.position_ids_{letter}"])
    assert delta.tolist() == [golden()[f"{case}.rope_delta_{letter}"].tolist()]


@pytest.mark.parametrize("letter", LAYOUTS)
@pytest.mark.parametrize("number", range(len(SMALL)))
def test_published_small(number, letter):
    case = SMALL[number]
    grid = case["video_grid_thw"]
    found, delta = rope_index(
        ids(case["sequence"])[None],
        CONFIG,
        video_grid_thw=None if grid is None else torch.tensor([grid]),
        video_second_per_grid=None if grid is None else [case["seconds_per_grid"]],
        layout=LAYOUTS[letter],
    )
    assert found[:, 0].tolist() == case[letter]
    largest = case[f"rope_delta_{letter}"]
    after = int(found[0, 0, -1]) + 1 - len(case["sequence"])  # where the next token stands, under "trained"
    assert delta.item() == (largest if letter == "B" else after)


def naive(text: str, layout: str, images: list, videos: list, seconds: list) -> list[list[int]]:
    """The two layouts from their definition, token by token. Grids in tokens (T, h, w)."""
    images, videos, seconds = iter(images), iter(videos), iter(seconds)
    out, at, p = [], 0, 0
    while at < len(text):
        if text[at] not in "iva":
            out.append((p, p, p))
            at, p = at + 1, p + 1
            continue
        end = at
        while end < len(text) and text[end] in "iva":
            end += 1
        block = text[at:end]
        if "i" in block:
            _, h, w = next(images)
            cells = [(p, p + r, p + c) for r in range(h) for c in range(w)]
            out += cells
            p = 1 + max(max(cell) for cell in cells)
        elif "v" not in block:
            out += [(p + j, p + j, p if layout == "trained" else p + j) for j in range(len(block))]
            p += len(block)
        else:
            t, h, w = next(videos)
            s = next(seconds) if layout == "trained" else 1.0
            cells = [(p + int(2 * s * k), p + r, p + c) for k in range(t) for r in range(h) for c in range(w)]
            if layout == "released":
                after = 1 + max(max(cell) for cell in cells)
                out += cells + [(after + j,) * 3 for j in range(len(block) - len(cells))]
                p = after + len(block) - len(cells)
            else:
                sound = [(p + j, p, p + j) for j in range(block.count("a"))]
                queue = {"v": iter(cells), "a": iter(sound)}
                out += [next(queue[letter]) for letter in block]
                p = 1 + (max(c[0] for c in cells + sound) if sound else max(max(c) for c in cells))
        at = end
    return [list(axis) for axis in zip(*out, strict=True)]


MIXED = "tsiiiiiietts" + "vvvvaavvvvavvvvaaaaa" + "etsvvvvvvesaaaetsiiet"


@pytest.mark.parametrize("layout", ["released", "trained"])
def test_every_modality_in_one_prompt(layout):
    images, videos, seconds = [(1, 3, 2), (1, 1, 2)], [(3, 2, 2), (2, 1, 3)], [0.75, 2.5]
    found, _ = rope_index(
        ids(MIXED)[None],
        CONFIG,
        image_grid_thw=torch.tensor([[1, 6, 4], [1, 2, 4]]),
        video_grid_thw=torch.tensor([[3, 4, 4], [2, 2, 6]]),
        video_second_per_grid=torch.tensor(seconds),
        layout=layout,
    )
    assert found[:, 0].tolist() == naive(MIXED, layout, images, videos, seconds)


@pytest.mark.parametrize("layout", ["released", "trained"])
def test_batch_with_padding(layout):
    """Rows equal the prompts alone, padded at either end; padding stands at 0."""
    texts = ["tsvvvvaavvvvaet", "ttt", "tsaaaett", "svvvvett"]
    grids, seconds = {0: [2, 4, 4], 3: [1, 4, 4]}, {0: 0.5, 3: 1.0}
    width = 17
    batch, mask = torch.full((4, width), 7), torch.zeros(4, width, dtype=torch.long)
    for row, text in enumerate(texts):
        start = width - len(text) if row % 2 == 0 else 0
        batch[row, start : start + len(text)] = ids(text)
        mask[row, start : start + len(text)] = 1
    found, deltas = rope_index(
        batch,
        CONFIG,
        video_grid_thw=torch.tensor(list(grids.values())),
        video_second_per_grid=list(seconds.values()),
        attention_mask=mask,
        layout=layout,
    )
    for row, text in enumerate(texts):
        own = {}
        if row in grids:
            own = dict(video_grid_thw=torch.tensor([grids[row]]), video_second_per_grid=[seconds[row]])
        alone, delta = rope_index(ids(text)[None], CONFIG, **own, layout=layout)
        kept = mask[row].bool()
        assert torch.equal(found[:, row, kept], alone[:, 0]) and deltas[row] == delta[0]
        assert not found[:, row, ~kept].any()


def test_float32_as_in_training():
    """Steps whose product with k falls on another side of a whole number in float64."""
    k, differ = torch.arange(200), 0
    for s in (0.2, 0.7, 0.3125, 0.1, 1.3, 0.20083333333333334):
        found, _ = rope_index(
            ids("t" + "v" * 200)[None],
            CONFIG,
            video_grid_thw=torch.tensor([[200, 2, 2]]),
            video_second_per_grid=[s],
            layout="trained",
        )
        wanted = 1 + (k * torch.tensor(s, dtype=torch.float32) * 2).long()
        assert torch.equal(found[0, 0, 1:], wanted)
        differ += int((wanted != 1 + (k.double() * s * 2).long()).sum())
    assert differ > 0


@pytest.mark.parametrize(
    "text, given, message",
    [
        ("tsvvvvet", {}, "video_grid_thw has 0 rows"),
        ("tsvvvet", {"video_grid_thw": [[1, 4, 4]]}, "1 x 2 x 2 tokens, input_ids have 3"),
        ("tsvvvvetsvvvvet", {"video_grid_thw": [[1, 4, 4]]}, "video 2"),
        ("tt", {"video_grid_thw": [[1, 4, 4]]}, "has 1 rows, input_ids hold 0 videos"),
        ("tsiivvvvet", {"video_grid_thw": [[1, 4, 4]], "image_grid_thw": [[1, 2, 4]]}, "image touches"),
        ("tsvvvvet", {"video_grid_thw": [[1, 4, 4]], "layout": "trained"}, "video_second_per_grid"),
        ("tt", {"layout": "aligned"}, "'aligned'"),
    ],
)
def test_bad_input(text, given, message):
    given = {name: torch.tensor(value) if name.endswith("thw") else value for name, value in given.items()}
    with pytest.raises(InputError, match=message):
        rope_index(ids(text)[None], CONFIG, **given)
