"""benchmarks/findings/policies.py on a clip of each task, with a few schedules."""

from __future__ import annotations

import json

from avflow.eviction.recipes import evs, fastv, vtw


def test_policies(scripts, tmp_path, monkeypatch, capsys):
    script = scripts("findings/policies")
    few = {
        "FastV": [("early", fastv(1, 0.75, script.MEDIA))],
        "VTW": [("late", vtw(10, script.MEDIA))],
        "EVS": [("little", evs(0.9))],
    }
    monkeypatch.setattr(script, "candidates", lambda: few)
    script.main(["--each", "1", "--results", str(tmp_path), "--figure", str(tmp_path / "p.png")])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:8]] == [
        *["| plain", "| planned", "| planned, 5 points", "| FastV", "| VTW", "| EVS"]
    ]
    assert "tiny-omni: right" in lines[0] and "tiny-salmonn: right" in lines[0]
    for name in script.MODELS:
        rows = json.loads((tmp_path / name / "policies.json").read_text())["results"]
        assert [r["family"] for r in rows] == ["plain", "planned", "planned, 5 points", "FastV", "VTW", "EVS"]
        plain, planned, allowed, early, late, first = rows
        assert plain["right"] == plain["prompts"] == 9 and plain["flops_left"] == 1
        assert early["flops_left"] < planned["flops_left"] < late["flops_left"] < 1
        assert early["p"] < late["p"] and late["right"] == 9
        assert first["flops_left"] < 1 and allowed["flops_left"] <= planned["flops_left"]
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
