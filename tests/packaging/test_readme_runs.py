"""README's first block of Python runs as it stands there, and finds what the caption above it says."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_first_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)[0]
    found: dict = {}
    exec(compile(first, str(README), "exec"), found)
    assert {"run", "clips", "flow.png", "flow.pdf"} <= {p.name for p in tmp_path.iterdir()}
    at = found["results"].mean_change().to_pandas().groupby("knockout")["mean"].min()
    assert at["video->question"] < -20 < -5 < at["video->last"]  # through the question, and not past it
