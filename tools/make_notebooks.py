"""Makes notebooks/ from the pages of docs/ that are tutorials: `python tools/make_notebooks.py`.

The page is what is written and reviewed; the notebook says the same in cells. It is stored without outputs: they would
be stale after the next change and bury it in a diff. A test compares the two, and runs every cell.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"tutorial": "tutorial", "eviction": "tutorial-eviction"}  # notebook -> page
_BLOCK = re.compile(r"^```(python)?\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def notebook(page: str) -> dict[str, Any]:
    """The notebook of a page's text: blocks of Python are cells, so is `pip install`; links lead to docs/."""
    cells: list[dict[str, Any]] = []
    at = 0
    for block in _BLOCK.finditer(page):
        language, code = block.groups()
        installs = language is None and all(line.startswith("pip install ") for line in code.splitlines())
        if language is None and not installs:
            continue  # it stays a block of the text
        _add_text(cells, page[at : block.start()])
        _add(cells, "code", _as_magic(code) if installs else code, ["install"] if installs else [])
        at = block.end()
    _add_text(cells, page[at:])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _as_magic(code: str) -> str:
    """`pip install` for the kernel's own environment."""
    return "".join(f"%{line.replace('pip install', 'pip install --quiet')}\n" for line in code.splitlines())


def _add_text(cells: list[dict[str, Any]], text: str) -> None:
    # A section begins a cell of its own, so that a notebook's reader can fold it.
    for part in re.split(r"(?m)^(?=## )", text):
        if part.strip():
            _add(cells, "markdown", _links(part), [])


def _links(text: str) -> str:
    """Links to other pages from notebooks/; those within the page stay."""
    return re.sub(r"\]\((?!\.\./|#|https?:)([^)]+)\)", r"](../docs/\1)", text)


def _add(cells: list[dict[str, Any]], kind: str, source: str, tags: list[str]) -> None:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{len(cells) + 1:02d}"}
    cell["metadata"] = {"tags": tags} if tags else {}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    cells.append(cell | {"source": source.strip("\n").splitlines(keepends=True)})


def as_text(found: dict[str, Any]) -> str:
    """The notebook's file."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name, page in PAGES.items():
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        (ROOT / "notebooks" / f"{name}.ipynb").write_text(as_text(notebook(text)), encoding="utf-8")


if __name__ == "__main__":
    main()
