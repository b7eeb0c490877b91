"""docs/gallery.md shows every figure there is, and tools/gallery.py draws every picture that it shows."""

import re
from pathlib import Path

import avflow.plots

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/gallery.md").read_text()
PICTURES = set(re.findall(r"\]\(gallery/(\w+)\.png\)", PAGE))


def test_every_figure_function_is_shown():
    functions = set(avflow.plots.__all__) - {"save"}
    assert functions - set(re.findall(r"`(\w+)`", PAGE)) == set()
    assert functions <= PICTURES


def test_every_picture_is_there_and_drawn_by_the_script():
    there = {path.stem: path.stat().st_size for path in (ROOT / "docs/gallery").iterdir()}
    assert there.keys() == PICTURES
    assert sum(there.values()) < 1_000_000  # they are in the repository
    drawn = set(re.findall(r'^        "(\w+)": lambda', (ROOT / "tools/gallery.py").read_text(), re.MULTILINE))
    assert drawn == PICTURES
