"""The notebooks say what their pages in docs/ say, are stored without outputs, and run from first cell to last."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_notebooks  # noqa: E402


@pytest.mark.parametrize("name", make_notebooks.PAGES)
def test_a_notebook_is_its_page(name):
    stored = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    page = (ROOT / "docs" / f"{make_notebooks.PAGES[name]}.md").read_text(encoding="utf-8")
    assert stored == make_notebooks.as_text(make_notebooks.notebook(page)), "run: python tools/make_notebooks.py"
    assert all(cell.get("outputs", []) == [] for cell in json.loads(stored)["cells"])
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page)
    assert all((ROOT / "docs" / link).exists() for link in links)


@pytest.fixture
def one_thread_each(monkeypatch):
    """A notebook's process has threads for all cores otherwise, which wait for those of other tests for minutes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(name: str, folder: Path) -> list:
    """The executed cells of code, but for those that install."""
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient: pip install 'avflow[test]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    book.cells = [cell for cell in book.cells if "install" not in cell.metadata.get("tags", [])]
    nbclient.NotebookClient(book, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in book.cells if cell.cell_type == "code"]


def shown(cells: list, kind: str) -> list:
    """What the cells show, of one MIME type, in order."""
    return [o.data[kind] for cell in cells for o in cell.outputs if "data" in o and kind in o.data]


def printed(cells: list) -> str:
    return "".join(o.text for cell in cells for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


@pytest.mark.slow
def test_the_tutorial_finds_what_it_says(one_thread_each, tmp_path):
    cells = run("tutorial", tmp_path)
    tables = shown(cells, "text/html")
    assert shown(cells, "application/vnd.jupyter.widget-view+json")  # progress, by the notebook's own bar
    assert "avflow.sweep: 16 samples, 2 tasks, 12 paths, 12 layers" in tables[0]
    assert base64.b64decode(shown(cells, "image/png")[0]).startswith(b"\x89PNG")
    # Section 8, in the numbers that the notebook prints.
    found = {(t, p): (int(points), int(layer)) for t, p, points, layer in LINE.findall(printed(cells))}
    assert len(found) == 10
    for task, own, other in (("color", "video", "audio"), ("pitch", "audio", "video")):
        assert found[task, f"{own}->question"][0] < -40 and found[task, f"{own}->question"][1] <= 2
        assert found[task, f"{other}->question"][0] > -3
        assert found[task, "video->last"][0] > -3 < found[task, "audio->last"][0]
        assert found[task, "question->last"][0] < -5 and 2 <= found[task, "question->last"][1] <= 6
    answers = dict(
        re.findall(r"^(right answer|nothing cut|video->question|audio->question) +([ABC])$", printed(cells), re.M)
    )
    assert answers["nothing cut"] == answers["audio->question"] == answers["right answer"] != answers["video->question"]
    assert {"first-run", "first-finding.png", "first-finding.pdf"} <= {path.name for path in tmp_path.iterdir()}
    assert not [o for cell in cells for o in cell.outputs if "Warning" in o.get("text", "")]


LINE = re.compile(r"^(color|pitch): (\S+) +(-?\d+) points at layer (\d+)$", re.MULTILINE)


@pytest.mark.slow
def test_the_schedule_holds_and_is_kept(one_thread_each, tmp_path):
    cells = run("eviction", tmp_path)
    text = printed(cells)
    right, all_tokens, gone, never = re.findall(r"([ABC])$", text, re.MULTILINE)[:4]
    assert right == all_tokens == gone != never
    assert "right with the schedule  100%" in text and "8 of 8 right" in text
    assert shown(cells, "image/png") and (tmp_path / "schedule.json").is_file()
