"""`--decode-threads`: the same rows in the same order, whatever is read ahead; a bad sample is that sample's record."""

from __future__ import annotations

import json

import pytest
from clips import Clip
from demo_folder import clip_file, demo

from avflow.errors import InputError, MediaError
from avflow.runs.loop import run
from avflow.runs.sweep_job import SweepJob


def test_rows_order_and_records(tmp_path):
    lines = []
    for number in range(4):
        video = tmp_path / "gone.mp4" if number == 1 else clip_file(Clip())
        lines.append({"id": number, "question": "Which?", "options": ["red", "blue"], "answer": "red"})
        lines[-1] |= {"video": str(video)}
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def job(**options):
        return SweepJob(demo()["checkpoint"], samples, "video->question", layers=[1], select="all", **options)

    one = run(job(), tmp_path / "one", quiet=True)
    three = run(job(decode_threads=3), tmp_path / "three", quiet=True)
    assert three.table.equals(one.table) and list(three.failed) == ["1"] == list(one.failed)
    ids = [json.loads(line)["id"] for line in (tmp_path / "three/samples.jsonl").read_text().splitlines()]
    assert ids == ["0", "1", "2", "3"]
    assert run(job(), tmp_path / "three", quiet=True).skipped == 3  # it is no part of the configuration
    with pytest.raises(MediaError, match="no such file"):
        run(job(decode_threads=3), tmp_path / "debug", quiet=True, debug=True)
    for wrong in (0, 10**8):  # so many threads cannot be started, which was told halfway
        with pytest.raises(InputError, match="decode_threads.*1 or more"):
            job(decode_threads=wrong)
