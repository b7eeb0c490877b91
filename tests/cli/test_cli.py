"""The command line: a sweep into a run folder, its resume, its errors. Media are made up, the sweep is real."""

import dataclasses
import errno
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import typer
import yaml
from command import avflow_, one_line_error

import avflow.cli.doctor
import avflow.models
from avflow import files
from avflow.cli import main as cli
from avflow.cli.options import SampleOptions, parse_layers
from avflow.errors import InputError, MediaError
from avflow.experiments.sweep_plan import SweepRequest
from avflow.planning.plan_eviction import PlanRequest
from avflow.plots import information_flow as plots
from avflow.report import write
from avflow.report.collect import collect
from avflow.results.results import read
from avflow.runs import sweep_job


class FakeModel:
    """A tiny real model whose prompts come from the sample's id: "broken..." has broken media."""

    def __init__(self, model):
        self._model, self.prepared, self.options = model, [], []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def prepare(self, sample, **options):
        self.prepared.append(sample.id)
        self.options.append(options)
        if sample.id.startswith("broken"):
            raise MediaError(f"cannot decode {sample.video}: moov atom\nnot found")
        if sample.id.startswith("odd"):
            raise KeyError("surprise")
        prompt = tiny.av_prompt("interleaved", seconds=2, id=sample.id, seed=len(sample.id))
        prompt.task = sample.task
        return prompt


@pytest.fixture
def model(omni, monkeypatch):
    fake = FakeModel(omni)
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: fake)
    return fake


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Drawing is most of the time of these tests, and test_plots draws; here only the tests that ask for it do."""
    if "real_figures" in request.fixturenames:
        return

    def save(figure, stem, dpi=0):
        stem.parent.mkdir(parents=True, exist_ok=True)
        files = [stem.with_name(stem.name + suffix) for suffix in (".png", ".pdf")]
        for file in files:
            file.write_bytes(b"drawn")
        return files

    monkeypatch.setattr(plots, "save", save)


@pytest.fixture
def real_figures():
    """Marks a test that draws."""


@pytest.fixture
def samples(tmp_path):
    return write_samples(tmp_path / "samples.jsonl", ["s1", "s22", "s333"])


def write_samples(path, ids):
    record = {"question": "Which colour?", "options": ["red", "blue"], "answer": "A", "video": "clip.mp4"}
    lines = [json.dumps({"id": i, "task": "color" if k % 2 else "count", **record}) for k, i in enumerate(ids)]
    path.write_text("\n".join(lines) + "\n")
    return path


def sweep(samples, out, *more, select="all"):
    paths = () if "--knockouts" in more else ("--knockouts", "video->question,question->last")
    return avflow_("sweep", "m", samples, "--out", out, *paths, "--window", 3, "--select", select, *more)


def test_sweep_leaves_a_run_folder(real_figures, model, samples, tmp_path, monkeypatch):
    out, collected = tmp_path / "run", []
    monkeypatch.setattr(write, "collect", lambda *args, **how: collected.append(args) or collect(*args, **how))
    result = sweep(samples, out, "--fps", 1.5, "--max-pixels", 50000)
    assert result.exit_code == 0, result.output
    table = read(out).table
    assert table.num_rows == 3 * 2 * 4  # samples x paths x layers
    assert sorted(set(table["knockout"].to_pylist())) == ["question->last", "video->question"]
    names = {p.name for p in (out / "figures").iterdir()}
    assert names == {f"{s}.{e}" for s in ("flow", "flow_color", "flow_count", "heat_map") for e in ("png", "pdf")}
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["fps"], config["max_pixels"], config["window"], config["layers"]) == (1.5, 50000, 3, "all")
    assert model.options == [{"fps": 1.5, "max_pixels": 50000}] * 3
    page = (out / "report.html").read_text()
    assert "data:image/png" not in page and "video → question" in page and '"task": "count"' in page
    for path in (out / "rows.parquet", out / "figures" / "flow.png", out / "report.html"):
        assert str(path) in result.stdout
    said = re.search(r"^found +(.+)$", result.stdout, re.M).group(1)
    assert said in html.unescape(page) and "over 3 samples" in said  # the page's first sentence
    assert len(collected) == 1  # what is said and the page are from one reading of the rows
    assert "3 swept, 0 selected out, 0 failed" in result.stdout and re.search(r"^kernel +cpu-", result.stdout, re.M)
    assert json.loads((out / "summary.json").read_text())["versions"]["torch"]


def test_notes_on_media_stand_in_the_records_and_strict_media_is_passed_on(model, samples, tmp_path):
    prepare = model.prepare

    def noted(sample, **options):
        prompt = prepare(sample, **options)
        prompt.media = {"notes": ["sound: padded 1.94 s"]} if sample.id == "s22" else {}
        return prompt

    model.prepare = noted
    assert sweep(samples, tmp_path / "run", "--strict-media").exit_code == 0
    assert model.options == [{"strict_media": True}] * 3
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["strict_media"] is True
    records = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [record.get("notes") for record in records] == [None, ["sound: padded 1.94 s"], None]


def test_the_same_command_again_does_nothing_and_an_interrupted_one_goes_on(model, samples, tmp_path):
    out = tmp_path / "run"
    assert sweep(samples, out, "--limit", 1).exit_code == 0
    before = read(out).table
    assert sweep(samples, out).exit_code == 0
    assert model.prepared == ["s1", "s22", "s333"]
    result = sweep(samples, out)
    assert model.prepared == ["s1", "s22", "s333"] and "(3 finished before)" in result.stdout
    table = read(out).table
    assert table.num_rows == 24 and table.slice(0, 8).to_pylist() == before.to_pylist()


def test_a_failing_sample_is_recorded_and_the_run_goes_on(model, tmp_path):
    samples, out = write_samples(tmp_path / "s.jsonl", ["s1", "broken", "odd", "s22"]), tmp_path / "run"
    result = sweep(samples, out)
    assert result.exit_code == 1
    assert "error: 2 of 4 samples failed" in result.stderr and "Traceback" not in result.output
    records = {r["id"]: r for r in map(json.loads, (out / "samples.jsonl").read_text().splitlines())}
    assert records["broken"]["status"] == "failed" and "moov atom not found" in records["broken"]["reason"]
    assert records["odd"]["reason"] == "KeyError: 'surprise'"
    assert records["s1"]["status"] == records["s22"]["status"] == "ok"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["samples"] == {"ok": 2, "selected_out": 0, "failed": 2}
    assert set(summary["failed"]) == {"broken", "odd"}
    assert "moov atom" in (out / "report.html").read_text()
    model.prepared.clear()
    assert sweep(samples, out).exit_code == 1
    assert model.prepared == ["broken", "odd"]


def test_one_bad_prompt_does_not_take_its_neighbours_with_it(model, samples, tmp_path, monkeypatch):
    real = sweep_job.sweep_prompts

    def failing(model, prompts, request, tick=None):
        if any(p.id == "s22" for p in prompts):
            raise InputError("NaN in layer 3")
        return real(model, prompts, request, tick)

    monkeypatch.setattr(sweep_job, "sweep_prompts", failing)
    assert sweep(samples, tmp_path / "run").exit_code == 1
    assert sorted(set(read(tmp_path / "run").table["prompt"].to_pylist())) == ["s1", "s333"]


def test_debug_shows_the_traceback(model, tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", ["broken"])
    with pytest.raises(MediaError):
        sweep(samples, tmp_path / "run", "--debug")
    with pytest.raises(MediaError):
        avflow_("--debug", "sweep", "m", samples, "--out", tmp_path / "run2")


def test_selected_out_samples_are_recorded_and_said(model, samples, tmp_path):
    out = tmp_path / "run"
    # Prompts without options: answered correctly where token 7 is the model's first choice, by chance never.
    result = sweep(samples, out, select="correct")
    records = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {r["status"] for r in records} == {"selected_out"} and records[0]["p_clean"] > 0
    assert "clean answer is wrong" in records[0]["reason"]
    assert result.exit_code == 0 and "--select all" in result.stdout and "found" not in result.stdout
    assert read(out).table.num_rows == 0 and "nothing to draw" in (out / "report.html").read_text()
    assert sweep(samples, tmp_path / "wrong", select="wrong").exit_code == 0
    assert read(tmp_path / "wrong").table.num_rows == 24


def test_a_group_without_a_token_is_said_in_the_row(model, samples, tmp_path):
    assert sweep(samples, tmp_path / "run", "--knockouts", "image->last,video->last").exit_code == 0
    rows = read(tmp_path / "run").table.to_pylist()
    image = [r for r in rows if r["knockout"] == "image->last"]
    assert {r["status"] for r in image} == {"no token: image"} and {r["p_knockout"] for r in image} == {None}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["paths"]["image->last"] is None


def test_another_configuration_is_refused_before_the_model_is_loaded(model, samples, tmp_path, monkeypatch):
    assert sweep(samples, tmp_path / "run").exit_code == 0
    monkeypatch.setattr(avflow.models, "load", lambda *a, **k: pytest.fail("loaded"))
    told = one_line_error(sweep(samples, tmp_path / "run", "--semantics", "zero"))
    assert "semantics: 'renormalize' there, 'zero' now" in told


@pytest.mark.parametrize(
    "more, told",
    [
        (("--knockouts", "video>question"), "'video>question'"),
        (("--knockouts", "video->question,,"), "an empty one"),
        (("--knockouts", "smell->question"), "smell"),
        (("--knockouts", "video->last", "--knockouts", "video->last"), "given twice"),
        (("--layers", "0-99"), "[4"),
        (("--layers", "5-2"), "'5-2'"),
        (("--style", "centre"), "'centre'"),
        (("--semantics", "none"), "'none'"),
        (("--limit", "0"), "limit is 0"),
        (("--window", "0"), "width 0"),
        (("--memory", "lots"), "lots"),
        (("--select", "right"), "'right'"),
    ],
)
def test_bad_options_are_one_line(model, samples, tmp_path, more, told):
    assert told in one_line_error(sweep(samples, tmp_path / "run", *more))
    assert sweep(samples, tmp_path / "run").exit_code == 0  # the mended command may use the same folder


def test_bad_files_are_one_line(model, samples, tmp_path, monkeypatch):
    assert "nowhere.jsonl" in one_line_error(sweep(tmp_path / "nowhere.jsonl", tmp_path / "run"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "1", "question": "?", "options": ["a", "b"], "video": "v.mp4"}\n')
    assert "line 1" in one_line_error(sweep(bad, tmp_path / "run"))
    assert "--out" in one_line_error(avflow_("sweep", "m", samples))
    assert "is a file" in one_line_error(sweep(samples, samples))
    monkeypatch.undo()
    assert "no folder" in one_line_error(sweep(samples, tmp_path / "run", "--dtype", "float32"))


def test_a_full_disk_is_one_line_and_keeps_what_is_done(model, samples, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert sweep(samples, out, "--limit", 2).exit_code == 0
    real = os.replace

    def full(source, target):
        if "s333" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", full)
        assert "disk is full" in one_line_error(sweep(samples, out))
    assert len(set(read(out).table["prompt"].to_pylist())) == 2
    model.prepared.clear()
    assert sweep(samples, out).exit_code == 0 and model.prepared == ["s333"]


def test_ctrl_c_keeps_what_is_done(model, tmp_path, monkeypatch):
    samples, out = write_samples(tmp_path / "s.jsonl", ["s1", "s22"]), tmp_path / "run"
    real = sweep_job.sweep_prompts
    calls = iter([real])

    def interrupted(*args):
        for call in calls:
            return call(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_job, "sweep_prompts", interrupted)
    result = sweep(samples, out)
    assert result.exit_code == 130 and "run the same command again" in result.stderr
    assert set(read(out).table["prompt"].to_pylist()) == {"s1"}


def test_dry_run_runs_no_layer_and_writes_nothing(model, tmp_path, monkeypatch):
    samples = write_samples(tmp_path / "s.jsonl", ["s1", "broken"])
    monkeypatch.setattr(sweep_job, "sweep_prompts", lambda *a: pytest.fail("swept"))
    monkeypatch.setattr(model.text_model, "forward", lambda *a, **k: pytest.fail("ran"))
    result = avflow_("sweep", "m", samples, "--out", tmp_path / "run", "--dry-run")
    assert result.exit_code == 1 and "1 samples failed" in result.stderr
    assert not (tmp_path / "run").exists()
    line = next(line for line in result.stdout.splitlines() if line.startswith("s1"))
    assert len(line.split()) == 6 and float(line.split()[-1]) > 1
    assert re.search(r"^broken +failed: cannot decode", result.stdout, re.M)


def test_report_draws_again_without_the_model(model, samples, tmp_path, monkeypatch):
    out = tmp_path / "run"
    sweep(samples, out)
    monkeypatch.setattr(avflow.models, "load", lambda *a, **k: pytest.fail("loaded"))
    for path in (out / "figures").iterdir():
        path.unlink()
    result = avflow_("report", out, "--first-layer", 1, "--title", "Mine & yours")
    assert result.exit_code == 0 and str(out / "figures" / "flow.png") in result.stdout
    assert (out / "figures" / "flow.png").exists()
    assert "Mine &amp; yours" in (out / "report.html").read_text()
    assert "no such run folder" in one_line_error(avflow_("report", tmp_path / "nowhere"))
    assert "first_layer is 3" in one_line_error(avflow_("report", out, "--first-layer", 3))


def test_report_of_an_unfinished_run_says_so(model, samples, tmp_path):
    out = tmp_path / "run"
    sweep(samples, out)
    (out / "rows.parquet").unlink()
    assert avflow_("report", out).exit_code == 0
    assert "not finished" in (out / "report.html").read_text()


@pytest.mark.parametrize("command", ["sweep", "look", "plan"])
def test_every_nth_sample_is_compared(model, tmp_path, command):
    samples, folder = write_samples(tmp_path / "samples.jsonl", [f"s{'1' * i}" for i in range(1, 6)]), tmp_path / "run"
    words = {
        "sweep": ("sweep", "m", samples, "--out", folder, "--layers", "0", "--select", "all"),
        "look": ("look", "lens", "m", samples, "--out", folder, "--layers", "0"),
        "plan": ("plan", "m", samples, "--out", f"{folder}.json", "--layers", "0", "--groups", "video"),
    }[command]
    model.proofs.clear()
    model.read = 0  # what other tests asked the shared model counts too
    result = avflow_(*words, "--check", 2)
    records = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [record["check"]["compared"] for record in records] == [1, 0, 1, 0, 1]
    if command != "plan":  # the made-up answers are wrong, so that nothing can be planned
        assert result.exit_code == 0 and "check       clean run and the model's own forward differ by" in result.output
        assert json.loads((folder / "summary.json").read_text())["check"]["compared"] == 3
    for slip in ("sometimes", "0", "-1", "1.5"):
        assert "check" in one_line_error(avflow_(*words, f"--check={slip}"))


def test_demo_ends_on_one_page(model, tmp_path, monkeypatch):
    import avflow.demo.flow
    import avflow.demo.questions
    from avflow.report.samples import write_sample_views

    folder = tmp_path / "demo"

    def make(path, model):
        path.mkdir()
        samples = write_samples(path / "samples.jsonl", ["s1", "s22"])
        return {"checkpoint": str(path / "checkpoint"), "samples": str(samples), "window": 3}

    model.proofs.clear()
    monkeypatch.setattr(avflow.demo.questions, "held_out", make)
    monkeypatch.setattr(avflow.demo.flow, "SELECT", "all")  # these answers are made up
    # Its media are made up, so nothing can be shown of them; tests/test_page.py shows a real sample.
    monkeypatch.setattr(avflow.demo.flow, "show_samples", lambda m, files, to, schedule: write_sample_views(to, []))
    result = avflow_("demo", "--out", folder)
    assert result.exit_code == 0, result.output
    for path in (folder / "run" / "rows.parquet", folder / "run" / "figures" / "flow.png", folder / "samples.jsonl"):
        assert str(path) in result.stdout and path.exists()
    assert (folder / "report.html").exists() and str(folder / "report.html") in result.stdout
    assert len(set(read(folder / "run").table["knockout"].to_pylist())) == 15
    check = json.loads((folder / "run" / "summary.json").read_text())["check"]
    assert 0 <= check["difference"] <= check["bound"]
    figure = (
        f"{check['difference']:.1e} in a logit at most (bound {check['bound']:.1e}; prompt {check['prompt']}; 1 comp"
    )
    assert f"the model's own forward differ by {figure}" in result.stdout
    assert html.escape(figure) in (folder / "report.html").read_text()
    assert read(folder / "run").meta["check"] == check


def test_bench(tmp_path):
    out = tmp_path / "bench.json"
    result = avflow_("bench", "--tokens", 300, "--rounds", 1, "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["tokens"] == 300 and found["sweep"]["runs"] == 5 * 12
    assert (
        f"{found['sweep']['over_clean']:.2f} x the clean forward" in result.stdout and found["kernel"] in result.stdout
    )


def test_bench_of_what_cannot_be():
    assert "100 tokens: pass 200 or more" in one_line_error(avflow_("bench", "--tokens", 100))
    assert "rounds = 0" in one_line_error(avflow_("bench", "--rounds", 0))


def test_version():
    result = avflow_("--version")
    assert result.exit_code == 0 and result.stdout == f"avflow {avflow.__version__}\n"


def test_every_command_over_samples_has_the_options_over_samples():
    shared = {f.name for f in dataclasses.fields(SampleOptions)}
    assert {"limit", "workers", "ray", "fps", "debug"} <= shared
    for name in ("sweep", "plan", "look"):
        assert shared <= {p.name for p in typer.main.get_command(cli.app).commands[name].params}


@pytest.mark.parametrize(
    "command, request_type, names",
    [
        ("sweep", SweepRequest, "knockouts window style layers select semantics"),
        ("look", SweepRequest, "knockouts window style layers semantics"),
        ("plan", PlanRequest, "groups max_drop layers confidence seed"),
    ],
)
def test_the_defaults_are_those_of_the_request(command, request_type, names):
    """An option that is not given is not passed on; --help shows what the request then takes."""
    options = {p.name: p for p in typer.main.get_command(cli.app).commands[command].params}
    defaults = {f.name: f.default for f in dataclasses.fields(request_type)}
    defaults["max_drop"] = defaults.get("max_accuracy_drop")
    for name in names.split():
        default = "all" if defaults[name] is None else defaults[name]
        assert options[name].default is None
        assert options[name].show_default == (",".join(default) if isinstance(default, tuple) else str(default))


def test_help_imports_nothing_heavy():
    heavy = ("torch", "transformers", "matplotlib", "pyarrow", "numpy")
    code = f"import sys, avflow.cli.main; print([m for m in {heavy} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=env).strip() == "[]"


@pytest.mark.parametrize(
    "text, layers", [("all", None), ("0-3", [0, 1, 2, 3]), ("5", [5]), ("3, 5,7-8,5", [3, 5, 7, 8])]
)
def test_layers(text, layers):
    assert parse_layers(text) == parse_layers(text, before=True) == layers
    assert parse_layers("-1, 3-4", before=True) == [-1, 3, 4]


@pytest.mark.parametrize("text", ["", "a", "3-", "-1", "5-2", "1,,2", "1.5"])
def test_layers_that_cannot_be_read(text):
    with pytest.raises(InputError, match="layers"):
        parse_layers(text)


def test_the_docs_name_every_option_and_column():
    from avflow.results.table import SCHEMA

    text = (Path(__file__).parents[2] / "docs" / "sweep.md").read_text()
    command = typer.main.get_command(cli.app).commands["sweep"]
    options = {option for p in command.params for option in p.opts if option.startswith("--")}
    assert {o for o in options if o not in text} == set()
    assert {name for name in SCHEMA.names if f"`{name}`" not in text} == set()
    experiments = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    from avflow.cli.look import OPTIONS
    from avflow.knockouts.presets import PRESETS

    assert {what for what in OPTIONS if f"avflow look {what}" not in experiments} == set()
    assert {name for name in PRESETS if f"`{name}`" not in experiments} == set()
    for file in ("README.md", *(str(f) for f in (Path(__file__).parents[2] / "docs").glob("*.md"))):
        path = Path(__file__).parents[2] / file
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
            assert link.endswith(".png") or (path.parent / link).exists(), (file, link)
