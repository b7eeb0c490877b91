"""docs/errors.md names every kind of error, lists messages that the sources have, and no table is cut in two."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import avflow.errors

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/errors.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SOURCES = [path for pattern in ("python/**/*.py", "avflow_ext/*.py") for path in ROOT.glob(pattern)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{2,}", text.lower()))


@pytest.fixture(scope="module")
def templates() -> list[set[str]]:
    """The words of every text in the sources, what is filled in left out."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(" ".join(part.value for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [told for text in found if len(told := words(text)) > 1 and len(text) < 500]  # longer: docstrings


def messages() -> list[str]:
    """What stands in the first column, one text each; `...` and what it stands for have no words of their own."""
    cells = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


def test_every_message_is_one_of_the_sources(templates):
    filled = {
        "samples",
        "jsonl",
        "horse",
        "meta",
        "cuda",
        "cpu",
        "nan",
        "clip",
        "mp4",
        "safetensors",
        "model",
        "im_end",
    }
    lost = []
    for message in messages():
        said = words(re.sub(r"'[^']*'", "", message)) - filled
        if len(said) >= 3 and max(len(said & told) / len(said) for told in templates) < 0.6:
            lost.append(message)
    assert lost == []


def test_every_kind_of_error_is_named():
    kinds = [name for name, kind in vars(avflow.errors).items() if inspect.isclass(kind)]
    assert len(kinds) >= 7
    assert [name for name in kinds if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_have_a_head_and_rows_of_one_width(page):
    """A blank line within a table makes plain text of all rows behind it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = [len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) for line in block.splitlines()]
        assert re.fullmatch(r"\|(?: ?:?-+:? ?\|)+", block.splitlines()[1]), block[:200]
        assert set(widths) == {widths[0]}, block[:200]
