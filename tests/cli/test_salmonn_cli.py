"""`avflow sweep` on checkpoint folders of other families and real mp4 files: the whole way, nothing faked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clips import Clip
from demo_folder import clip_file, demo
from typer.testing import CliRunner

from avflow.cli import main as cli
from avflow.results.results import read

FAMILIES = ("video_salmonn2_plus", "qwen2_5_vl")


def sweep(family: str, samples, out, *more):
    paths = "video->question,audio->last" if family == "video_salmonn2_plus" else "video->question,video->last"
    wanted = ("--knockouts", paths, "--window", 3, "--select", "all")
    arguments = ["sweep", demo(family)["checkpoint"], samples, "--out", out, *wanted, *more]
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_of_real_files(family, tmp_path):
    samples = tmp_path / "samples.jsonl"
    samples.write_text("\n".join(Path(demo(family)["samples"]).read_text().splitlines()[:2]).replace("clips/", ""))
    for clip in demo(family)["clips"]:
        (tmp_path / Path(clip).name).symlink_to(clip)
    result = sweep(family, samples, tmp_path / "run", "--fps", 2)
    assert result.exit_code == 0, result.output
    rows = read(tmp_path / "run").table.to_pylist()
    assert len(rows) == 2 * 2 * 8 and {r["status"] for r in rows} == {"ok"}  # samples x paths x layers
    assert np.isfinite([r["logp_knockout"] for r in rows]).all()
    assert max(abs(r["logp_knockout"] - r["logp_clean"]) for r in rows) > 1e-3
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_sample_with_bad_media_fails_alone(tmp_path):
    ask = {"question": "Which color is the shape?", "options": ["red", "blue"], "answer": "A"}
    clips = {"heard": clip_file(Clip()), "silent": clip_file(Clip(), sound=False)}
    lines = [json.dumps({"id": name, "video": str(path), **ask}) for name, path in clips.items()]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("\n".join(lines))
    result = sweep("video_salmonn2_plus", samples, tmp_path / "run", "--fps", 2, "--layers", "0")
    assert result.exit_code == 1 and "1 of 2 samples failed" in result.output
    assert "silent" in result.output and "has no sound: set use_audio_in_video=False" in result.output
    assert {r["prompt"] for r in read(tmp_path / "run").table.to_pylist()} == {"heard"}


def test_the_cost_is_told_before(tmp_path):
    result = sweep("video_salmonn2_plus", demo("video_salmonn2_plus")["samples"], tmp_path / "run", "--dry-run")
    assert result.exit_code == 0 and "total" in result.output and not (tmp_path / "run").exists()
