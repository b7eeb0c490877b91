"""`avflow plan` and `avflow generate` on the demo's checkpoint and clips."""

from __future__ import annotations

import functools
import json
import re

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from command import avflow_, one_line_error
from demo_folder import demo, model

import avflow
import avflow.models
from avflow.eviction.recipes import fastv, pyramiddrop, vtw
from avflow.eviction.schedule import EvictionSchedule
from avflow.planning.choice import SCHEMA
from avflow.plots.eviction import eviction_lines
from avflow.runs import plan_job, plan_run
from avflow.runtime import generating
from avflow.runtime.generating import check_open, generate, open_sample
from avflow.tiny.checkpoint import FAMILIES


@functools.cache
def right_samples() -> list[dict]:
    """The demo's samples with the answers that its model gives, so that there is an accuracy to lose."""
    out = []
    for sample in avflow.Sample.read_jsonl(demo()["samples"]):
        prompt = model().prepare(sample)
        with torch.no_grad():
            logits = model().hf(**prompt.model_inputs).logits[0, -1]
        best = int(logits[torch.tensor(prompt.option_ids)].argmax())
        out.append({**json.loads(sample.to_json()), "answer": "ABCD"[best]})
    return out


@functools.cache
def prepared(line: str, **options) -> avflow.Prompt:
    """model().prepare, once for every sample: decoding clips is most of the time of these tests."""
    fields = json.loads(line)
    sample = avflow.Sample(**fields) if "answer" in fields else avflow.Sample.open(**fields)
    return type(model()).prepare(model(), sample, **options)


@pytest.fixture
def samples(tmp_path, monkeypatch):
    loaded = model()
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: loaded)
    monkeypatch.setattr(loaded, "prepare", lambda sample, **options: prepared(sample.to_json(), **options))
    return write(tmp_path / "samples.jsonl", right_samples())


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def plan(samples, out, *more):
    return avflow_("plan", "m", samples, "--out", out, "--groups", "video,audio", *more)


def test_a_plan(samples, tmp_path):
    out = tmp_path / "s.json"
    result = plan(samples, out, "--max-drop", 0.3)
    assert result.exit_code == 0, result.output
    schedule = EvictionSchedule.load(out)
    same = avflow.plan_eviction(model(), avflow.Sample.read_jsonl(samples), ["video", "audio"], max_accuracy_drop=0.3)
    assert schedule.steps == same.steps and schedule.steps
    assert schedule.data["prompts"] == 4 and schedule.figures["accuracy_clean"] == 1
    table = pq.read_table(tmp_path / "s" / "plan.parquet")
    assert table.schema.equals(SCHEMA) and table.num_rows == 3 * 7
    for name in ("accuracy", "change_low", "change_high"):
        assert table[name].to_pylist() == same.plan.table[name].to_pylist()
    assert table["p"].to_pylist() == pytest.approx(same.plan.table["p"].to_pylist(), rel=1e-4)
    assert {p.name for p in (tmp_path / "s" / "figures").iterdir()} == {"plan.png", "plan.pdf"}
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["schedule"] == {s.group: s.after for s in schedule.steps} and summary["failed"] == {}
    assert summary["figures"] == schedule.figures and summary["tried"][-1]["by"] == "evict"
    check = same.results().meta["check"]
    assert check["compared"] >= check["kinds"] >= 2  # the walks, and the block with nothing dropped
    assert summary["check"]["difference"] <= summary["check"]["bound"]
    assert "check       clean run and the model's own forward differ by" in result.stdout
    for step in schedule.steps:
        assert re.search(rf"^{step.group} +leaves after layer {step.after}$", result.stdout, re.M)
    assert "accuracy    100.0 % -> " in result.stdout and "KV cache" in result.stdout
    for file in (out, tmp_path / "s" / "plan.parquet", tmp_path / "s" / "figures" / "plan.png"):
        assert str(file) in result.stdout and file.exists()


def test_measured_once_chosen_often(samples, tmp_path, monkeypatch):
    """A killed run goes on; another tolerance chooses from the rows that are there."""
    out, run = tmp_path / "s.json", tmp_path / "run"
    assert plan(samples, out, "--run", run, "--limit", 2, "--max-drop", 0.9).exit_code == 0
    rows = pq.read_table(run / "rows.parquet")
    real, seen = plan_job.try_schedules, []

    def watched(model, prompts, request, tick=None):
        seen.extend(p.id for p in prompts)
        return real(model, prompts, request, tick)

    monkeypatch.setattr(plan_job, "try_schedules", watched)
    assert plan(samples, out, "--run", run, "--max-drop", 0.9).exit_code == 0
    assert seen == [r["id"] for r in right_samples()[2:]]
    merged = pq.read_table(run / "rows.parquet")
    assert merged.schema.remove_metadata().equals(plan_job.PLAN) and merged.num_rows == 4 * 3 * 7
    assert merged.slice(0, rows.num_rows).to_pylist() == rows.to_pylist()
    first = EvictionSchedule.load(out)
    assert plan(samples, out, "--run", run, "--max-drop", 0.9, "--for", "vllm").exit_code == 0
    assert EvictionSchedule.load(out).figures["runtime"] == "vllm"
    assert plan(samples, out, "--run", run, "--max-drop", 0, "--strict", "--seed", 3).exit_code == 0
    assert len(seen) == 2 and EvictionSchedule.load(out).figures["strict"] is True
    assert first.figures["max_accuracy_drop"] == 0.9
    told = one_line_error(plan(samples, out, "--run", run, "--layers", "0-3"))
    assert "another configuration" in told and "layers" in told
    assert yaml.safe_load((run / "config.yaml").read_text())["evict"] == ["video", "audio"]


def test_a_plan_of_rests(samples, tmp_path):
    """Another measurement than that of leaving: its folder is another one; schedule, output and figure say so."""
    out, run = tmp_path / "s.json", tmp_path / "run"
    result = plan(samples, out, "--run", run, "--max-drop", 0.9, "--rest-until", 5)
    assert result.exit_code == 0, result.output
    schedule = EvictionSchedule.load(out)
    assert schedule.steps and all(step.until == 5 for step in schedule.steps)
    assert json.loads(out.read_text())["version"] == 2
    for step in schedule.steps:
        assert re.search(rf"^{step.group} +rests in layers {step.after + 1} .. 5$", result.stdout, re.M)
    table = pq.read_table(run / "plan.parquet")
    assert sorted(set(table["layer"].to_pylist())) == [0, 1, 2, 3, 4]
    figure, axes = eviction_lines(table, {"video": 1}, until=5)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "nothing rests" in told and any(text.endswith("rests 2 to 5") for text in told)
    told = one_line_error(plan(samples, out, "--run", run, "--max-drop", 0.9))
    assert "another configuration" in told and "until" in told


def test_a_failing_sample_is_left_out_and_told(samples, tmp_path):
    records = [*right_samples()[:2], {**right_samples()[2], "id": "gone", "video": "gone.mp4"}]
    result = plan(write(tmp_path / "more.jsonl", records), tmp_path / "s.json", "--max-drop", 0.9)
    assert result.exit_code == 1 and "1 of 3 samples failed" in result.stderr and "Traceback" not in result.output
    assert EvictionSchedule.load(tmp_path / "s.json").data["prompts"] == 2
    lines = (tmp_path / "s" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["ok", "ok", "failed"]
    assert list(json.loads((tmp_path / "s" / "summary.json").read_text())["failed"]) == ["gone"]


def test_a_group_that_no_sample_has(samples, tmp_path):
    result = plan(samples, tmp_path / "s.json", "--groups", "image")
    assert result.exit_code == 2 and "all 4 samples failed" in result.stderr
    assert "has no token of group 'image'" in result.stderr.splitlines()[-1] and not (tmp_path / "s.json").exists()


def test_a_plan_that_finds_nothing_says_so(samples, tmp_path, monkeypatch):
    real = plan_run.choose

    def hopeless(model, request, answered, *more, **named):
        for one in answered:
            one.correct[:] = False
        return real(model, request, answered, *more, **named)

    monkeypatch.setattr(plan_run, "choose", hopeless)
    result = plan(samples, tmp_path / "s.json")
    assert result.exit_code == 0 and "nothing can leave" in result.stdout
    assert EvictionSchedule.load(tmp_path / "s.json").steps == ()


def test_dry_run_runs_no_layer_and_writes_nothing(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(model().text_model, "forward", lambda *a, **k: pytest.fail("ran"), raising=False)
    result = plan(samples, tmp_path / "s.json", "--dry-run")
    assert result.exit_code == 0, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["samples.jsonl"]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == ["sample", *(r["id"] for r in right_samples()), "total", "rows:"]
    assert all(1 < float(line[-1]) < 8 for line in lines[1:5])


def test_a_plan_of_questions_alone(samples, tmp_path):
    """No answers in the file; another tolerance chooses from the same rows; the page's words are of nats."""
    records = [{k: v for k, v in r.items() if k != "answer"} for r in right_samples()]
    asked, out = write(tmp_path / "asked.jsonl", records), tmp_path / "s.json"
    assert "without the answer" in one_line_error(plan(asked, out))
    result = plan(asked, out, "--max-kl", 0.5, "--max-drop", 0.9)
    assert result.exit_code == 0, result.output
    prompts = avflow.Sample.read_jsonl(asked, answers=False)
    same = avflow.plan_eviction(model(), prompts, ["video", "audio"], max_kl=0.5, max_accuracy_drop=0.9)
    schedule = EvictionSchedule.load(out)
    assert schedule.steps == same.steps and schedule.steps and schedule.figures["measure"] == "kl"
    assert schedule.figures["kl_mean"] == pytest.approx(same.figures["kl_mean"], rel=1e-6)
    assert re.search("^near .* within 0.5 nats", result.stdout, re.M) and "KL          mean 0." in result.stdout
    run = tmp_path / "s"
    assert yaml.safe_load((run / "config.yaml").read_text())["measure"] == "kl"
    before = pq.read_table(run / "rows.parquet")
    assert plan(asked, out, "--max-kl", 0.2, "--max-drop", 0.9).exit_code == 0
    assert pq.read_table(run / "rows.parquet").equals(before) and EvictionSchedule.load(out).figures["max_kl"] == 0.2
    assert "another configuration" in one_line_error(plan(samples, out, "--run", run))
    assert avflow_("report", run).exit_code == 0 and "nats" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    "more, told",
    [
        (("--max-kl", 0), "max_kl = 0.0: pass nats above 0"),
        (("--max-kl", 0.1, "--groups", "option_correct"), "which option is right nobody knows"),
        (("--groups", "video,,audio"), "an empty one"),
        (("--groups", "smell"), "smell"),
        (("--groups", "last"), "must stay"),
        (("--max-drop", "2"), "max_accuracy_drop = 2.0"),
        (("--layers", "7"), "layer 7"),
        (("--layers", "5-2"), "'5-2'"),
        (("--limit", "0"), "limit is 0"),
        (("--confidence", "95"), "confidence = 95"),
        (("--memory", "lots"), "lots"),
        (("--for", "vllm", "--rest-until", "5"), "what leaves does not come back"),
        (("--for", "tgi"), "runtime = 'tgi'"),
    ],
)
def test_bad_options_of_a_plan_are_one_line(samples, tmp_path, more, told):
    assert told in one_line_error(plan(samples, tmp_path / "s.json", *more))
    assert not (tmp_path / "s.json").exists()


def test_where_the_schedule_goes_must_be_said(samples, tmp_path):
    assert "--out schedule.json" in one_line_error(avflow_("plan", "m", samples))
    assert "no .json suffix" in one_line_error(plan(samples, tmp_path / "s"))
    wrong = [{**r, "answer": "ABCD"["ABCD".index(r["answer"]) - 1]} for r in right_samples()[:2]]
    told = one_line_error(plan(write(tmp_path / "wrong.jsonl", wrong), tmp_path / "s.json"))
    assert "accuracy 0" in told


# --- generate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def schedule(samples, tmp_path):
    EvictionSchedule({"media": 2, "question": 4}, EvictionSchedule.facts(model())).save(tmp_path / "s.json")
    return tmp_path / "s.json"


QUESTION = ("--question", "Which color is the shape?", "--option", "red", "--option", "blue", "--max-new-tokens", 4)


def ask(*more):
    return avflow_("generate", "--model", "m", "--video", demo()["clips"][0], *QUESTION, *more)


def prompt():
    return model().prepare(open_sample("Which color is the shape?", ["red", "blue"], video=demo()["clips"][0]))


def test_generate_prints_the_answer(samples):
    result = ask()
    ids = model().hf.generate(**prompt().model_inputs, max_new_tokens=4, do_sample=False)[0, len(prompt()) :]
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == model().processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_generate_with_a_schedule(schedule, decode):
    with avflow.evict(model(), EvictionSchedule.load(schedule), decode=decode, groups=prompt().groups):
        ids = model().hf.generate(**prompt().model_inputs, max_new_tokens=4, do_sample=False)[0, len(prompt()) :]
    result = ask("--evict", schedule, "--decode", decode)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == model().processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("recipe", [fastv(), pyramiddrop((2, 4, 6)), vtw(3)], ids=["fastv", "pyramiddrop", "vtw"])
def test_generate_with_a_saved_recipe(samples, tmp_path, recipe):
    recipe.save(tmp_path / "recipe.json")
    with avflow.evict(model(), recipe, groups=prompt()):
        ids = model().hf.generate(**prompt().model_inputs, max_new_tokens=4, do_sample=False)[0, len(prompt()) :]
    result = ask("--evict", tmp_path / "recipe.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == model().processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_compare(schedule, decode):
    result = ask("--evict", schedule, "--decode", decode, "--compare")
    assert result.exit_code == 0, result.output
    found = {
        line[:22].strip(): line[22:].split() for line in result.stdout.splitlines() if line[:2] in ("pr", "de", "KV")
    }
    assert set(found) == {"prefill (ms)", "decode (ms a token)", "KV cache (MB)"}
    p = prompt()
    media = sum(g in ("video", "audio") for g in p.groups)
    question = sum(g in ("question_text", "option_correct", "option_incorrect") for g in p.groups)
    per_token = 2 * 2 * 32 * 4  # keys and values, 2 heads of 32, 4 bytes
    whole = 8 * (len(p) + 3)  # three of the four new tokens were read
    gone = 8 * (media + question) if decode == "drop" else 5 * media + 3 * question
    assert float(found["KV cache (MB)"][0]) == pytest.approx(whole * per_token / 1e6, abs=6e-4)
    assert float(found["KV cache (MB)"][1]) == pytest.approx((whole - gone) * per_token / 1e6, abs=6e-4)
    assert all(float(v) > 0 for cells in found.values() for v in cells)
    assert "the same answer" in result.stdout or "without the schedule: " in result.stdout


def test_an_image_or_a_silent_video_will_do(samples, tmp_path):
    from clips import Clip, write_png

    picture = write_png(Clip(), tmp_path / "p.png")
    result = avflow_("generate", "--model", "m", "--image", picture, "--question", "What is it?", "--max-new-tokens", 2)
    assert result.exit_code == 0, result.output
    assert ask("--silent").exit_code == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_with_a_schedule(family):
    clip, schedule = demo(family)["clips"][0], EvictionSchedule({"video": 2, "question": 4})
    asked = model(family).prepare(open_sample("Which color is the shape?", ["red", "blue"], video=clip))
    found = generate(model(family), asked, schedule, max_new_tokens=3)
    with avflow.evict(model(family), schedule, groups=asked.groups):
        ids = model(family).hf.generate(**asked.model_inputs, max_new_tokens=3, do_sample=False)[0, len(asked) :]
    assert found.ids == ids.tolist() and len(found.ids) == 3
    assert found.kv_bytes < generate(model(family), asked, max_new_tokens=3).kv_bytes


def test_one_token_has_no_decode_time(schedule):
    found = generate(model(), prompt(), EvictionSchedule.load(schedule), max_new_tokens=1)
    assert found.step_seconds is None and len(found.ids) == 1 and found.prefill_seconds > 0
    assert found.decode_seconds >= 0


def test_the_right_answer_is_not_known():
    both = ["options", "question", "option_correct+option_incorrect", "media", "candidates"]
    for group in both:
        check_open(model(), EvictionSchedule({group: 1}))
    for group in ("option_correct", "option_incorrect", "question_text+option_correct", "candidate_correct"):
        with pytest.raises(avflow.InputError, match="nobody knows"):
            check_open(model(), EvictionSchedule({group: 1}))


def test_bad_options_of_generate_are_one_line(schedule, tmp_path, monkeypatch):
    assert "one with --evict" in one_line_error(ask("--compare"))
    assert "one with --evict" in one_line_error(ask("--decode", "drop"))
    told = one_line_error(ask("--evict", tmp_path / "none.json"))
    assert "cannot read schedule" in told and "omni_3b_av_video" in told
    assert "layers 36" in one_line_error(ask("--evict", "omni_3b_av_video"))
    assert "decode = 'some'" in one_line_error(ask("--evict", schedule, "--decode", "some"))
    assert "max_new_tokens = 0" in one_line_error(ask("--max-new-tokens", 0))
    assert "no video, audio or image" in one_line_error(avflow_("generate", "--model", "m", "--question", "?"))
    assert "2 to 26" in one_line_error(
        avflow_("generate", "--model", "m", "--video", demo()["clips"][0], "--question", "?", "--option", "a")
    )
    EvictionSchedule({"option_correct": 2}).save(tmp_path / "right.json")
    assert "nobody knows" in one_line_error(ask("--evict", tmp_path / "right.json"))
    (tmp_path / "broken.json").write_text("{")
    assert "is broken" in one_line_error(ask("--evict", tmp_path / "broken.json"))
    monkeypatch.setattr(generating, "evict", lambda *a, **k: pytest.fail("ran"))
    assert "none.png" in one_line_error(ask("--image", tmp_path / "none.png"))
