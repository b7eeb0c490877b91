"""docs/how-to.md: its blocks of Python run in their order, its commands have the options that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

import avflow
import avflow.plots
from avflow.cli.main import app
from avflow.synthetic import make_items, write_items

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to.md").read_text()


def test_every_block_of_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = avflow.Sample.read_jsonl(write_items(make_items("heldout", 3, tasks=["color"]), "clips"))
    there = {"avflow": avflow, "model": avflow.load("tiny-omni"), "samples": samples}
    with pytest.warns(avflow.AvflowWarning, match="early"):  # video has lost tokens to it, as the page says
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M):
            exec(compile(block, "how-to.md", "exec"), there)
    assert (tmp_path / "my-run" / "rows.parquet").is_file()
    assert set(there["results"].table["knockout"].to_pylist()) == {"early->question", "video->question"}


def test_the_commands_have_these_options():
    commands = get_command(app).commands
    lines = [line for line in re.findall(r"^(?:`)?avflow .*$", PAGE, re.M)]
    assert len(lines) >= 7
    for line in lines:
        name = line.split()[1]
        options = {option for p in commands[name].params for option in (*p.opts, *p.secondary_opts)}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= options, line
