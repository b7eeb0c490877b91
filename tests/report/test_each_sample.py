"""Samples one by one: what a run tells of them, what the page gets, and how much that is."""

import base64
import io
import json
import re

import demo_folder
import many_samples
import numpy as np
import page_cases as cases
import pyarrow as pa
import pytest
import tiny_job
from PIL import Image

import avflow
from avflow.report.collect import collect
from avflow.report.each import MOST_MEDIA, add_media, each_sample
from avflow.report.media import FEW, media_of, media_or_none
from avflow.report.write import report_together
from avflow.results.results import read
from avflow.results.schemas import SWEEP_TEXT
from avflow.runs.folder import RunFolder
from avflow.runs.loop import run
from avflow.runs.merge import merge
from avflow.runs.told import FILE, line_of, read_told, told


@pytest.fixture(scope="module")
def sample():
    return avflow.Sample.read_jsonl(demo_folder.demo()["samples"])[0]


@pytest.fixture(scope="module")
def prompt(sample):
    return demo_folder.model().prepare(sample)


def test_every_token_of_a_prompt_is_told(sample, prompt):
    found = told(prompt, demo_folder.model())
    back = [(g, item) for g, item, _, count, _ in found["tokens"]["stretches"] for _ in range(count)]
    assert back == list(zip(prompt.groups, prompt.items, strict=True)) and found["tokens"]["count"] == len(prompt)
    firsts = [s[2] for s in found["tokens"]["stretches"]]
    assert firsts == [0, *np.cumsum([s[3] for s in found["tokens"]["stretches"]])[:-1]]
    assert avflow.Sample(**found["sample"]) == sample
    assert sample.question in "".join(s[4] for s in found["tokens"]["stretches"])


def test_a_run_tells_of_its_prompts_and_so_does_a_merged_one(tmp_path):
    runs = []
    for name, ids in (("one", ["s1", "broken"]), ("two", ["s22"])):
        path = tiny_job.write(tmp_path / f"{name}.jsonl", ids)
        run(tiny_job.job(path), tmp_path / name, quiet=True)
        runs.append(tmp_path / name)
    assert set(read_told(runs[0])) == {"s1"}  # of what has rows
    merge(tmp_path / "both", runs)
    assert read_told(tmp_path / "both") == read_told(runs[0]) | read_told(runs[1])
    assert sum(s[3] for s in read_told(runs[1])["s22"]["tokens"]["stretches"]) > 10


def test_lines_that_tell_nothing_are_left_out(tmp_path):
    good = line_of("a", many_samples.told(1))
    bad = ["{", "[]", '{"id": 3}', json.dumps({"id": "b", "sample": {}, "tokens": {"count": 1, "stretches": [[1]]}})]
    (tmp_path / FILE).write_text("\n".join([good, *bad, line_of("a", many_samples.told(2)), good[:40]]))
    found = read_told(tmp_path)
    assert list(found) == ["a"] and found["a"] == many_samples.told(2)  # the last line of a sample
    assert read_told(tmp_path / "nowhere") == {}


def test_the_curves_are_the_rows(tmp_path):
    folder = cases.sweep(tmp_path / "run", 3)
    table = read(folder).table
    found = each_sample(table, [{"id": "color-1", "correct": True}], {"color-1": many_samples.told(1)})
    assert [s["id"] for s in found] == list(dict.fromkeys(table["prompt"].to_pylist()))
    got = {(s["id"], path, x): c for s in found for path, points in s["curves"].items() for x, c in points}
    want = {(r["prompt"], r["knockout"], r["layer"]): r["change_percent"] for r in table.to_pylist()}
    assert got == pytest.approx(want, abs=0.006) and len(got) == table.num_rows
    one = found[1]
    assert (
        one["correct"] is True
        and one["question"] == "What is seen in clip 1?"
        and one["effect"][:2] == ["video->question", 3]
    )
    assert one["options"] == [["A", "red"], ["B", "blue"]] and one["tokens"]["count"] == 741
    assert one["tokens"]["stretches"][0] == [0, 0, 0, 9, ""] and one["tokens"]["groups"][0]["count"] == 720
    assert "question" not in found[0] and "curves" not in each_sample(table, [], {}, brief=True)[0]


def test_a_run_of_before_prompts_were_told_goes_on_the_page_without(tmp_path):
    folder = cases.sweep(tmp_path / "run", 3)
    each = collect([folder], media=True)["sweeps"][0]["each"]
    assert len(each) == 6 and not any({"tokens", "question", "media"} & set(s) for s in each)


def test_media_are_small_and_of_the_strongest(sample, monkeypatch):
    full, few = media_of(sample), media_of(sample, FEW)
    assert [m["label"] for m in full] == [m["label"] for m in few] == ["video", "sound of the video"]
    picture = Image.open(io.BytesIO(base64.b64decode(few[0]["pictures"][0].partition(",")[2])))
    assert (
        max(picture.size) <= FEW.pixels and len(few[0]["pictures"]) <= FEW.frames and len(few[1]["low"]) == FEW.columns
    )
    assert len(json.dumps(few)) < min(30_000, len(json.dumps(full)))
    part = media_of(avflow.Sample(**json.loads(sample.to_json()), start=1.0, end=2.0), FEW)
    assert part[1]["seconds"] == pytest.approx(1, abs=0.3)
    assert media_or_none({**json.loads(sample.to_json()), "video": "gone.mp4"}) == [] == media_or_none({"id": "x"})

    read_files = []
    monkeypatch.setattr("avflow.report.each.media_or_none", lambda fields: read_files.append(fields["id"]) or ["m"])
    samples = [{"id": str(n), "effect": ["p", 0, float(n)]} for n in range(MOST_MEDIA + 5)]
    shown = {"3"}
    add_media(samples, {s["id"]: {"sample": {"id": s["id"]}} for s in samples}, shown)
    assert len(shown) == MOST_MEDIA and read_files == [str(n) for n in range(MOST_MEDIA + 4, 5, -1)]
    assert [s["id"] for s in samples if "media" in s] == sorted(read_files, key=int)


def test_texts_under_knockouts_stand_beside_the_sample(tmp_path):
    folder = cases.sweep(tmp_path / "run", 3)
    same = dict(prompt="color-1", task="color", window=3, text_clean="red", tokens_clean=[1], tokens_knockout=[1])
    rows = [
        same | dict(knockout="video->last", layer=x, first_layer=x - 1, last_layer=x + 1, status="ok") for x in (1, 2)
    ]
    rows[0] |= dict(text_knockout="blue", changed=True)
    rows[1] |= dict(text_knockout="red", changed=False)
    rows.append(rows[0] | dict(knockout="image->last", status="no image"))
    config = {"model": "org/made-up", "experiment": "text"}
    with RunFolder(tmp_path / "text", config, SWEEP_TEXT) as text:
        text.add("color-1", rows=rows, prompt=many_samples.told(1))
        text.merge()
    found = collect([folder, tmp_path / "text"])["text"]
    assert [s["id"] for s in found] == ["color-1"] and found[0]["tokens"]["count"] == 741
    assert found[0]["texts"] == {"clean": "red", "rows": [["video → last", 0, 2, "blue"], ["video → last", 1, 3, None]]}
    assert report_together([tmp_path / "text"], tmp_path / "alone").is_file()
    assert isinstance(read(tmp_path / "text").table, pa.Table)


def test_a_page_of_200_samples_is_light():
    page = many_samples.page()
    assert page.stat().st_size < 15e6
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])
    assert len(data["sweeps"][0]["each"]) == 200 and all(s["tokens"] and s["curves"] for s in data["sweeps"][0]["each"])
