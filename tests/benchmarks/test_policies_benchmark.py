"""benchmarks/findings/policies.py on a clip of each task, with two schedules."""

from __future__ import annotations

import json

from avflow.eviction.recipes import fastv, vtw


def test_policies(scripts, tmp_path, monkeypatch):
    script = scripts("findings/policies")
    few = {"FastV": [("early", fastv(1, 0.75, script.MEDIA))], "VTW": [("late", vtw(10, script.MEDIA))]}
    monkeypatch.setattr(script, "candidates", lambda: few)
    script.main(["--each", "1", "--json", str(tmp_path / "p.json"), "--figure", str(tmp_path / "p.png")])
    rows = json.loads((tmp_path / "p.json").read_text())["results"]
    assert [r["family"] for r in rows] == ["plain", "planned", "FastV", "VTW"]
    plain, planned, early, late = rows
    assert plain["right"] == plain["prompts"] == 9 and plain["flops_left"] == 1
    assert early["flops_left"] < planned["flops_left"] < late["flops_left"] < 1
    assert early["p"] < late["p"] and late["right"] == 9
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
