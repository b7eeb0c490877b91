"""`avflow look` on the demo's checkpoint and clips: run folders with rows and figures, resumed, refused."""

import dataclasses
import json
import pickle
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from command import avflow_, one_line_error
from demo_folder import demo, model

import avflow
import avflow.models
from avflow.cli.look import parse_keep
from avflow.runs.folder import read_config
from avflow.runs.look_job import EXPERIMENTS, LookJob
from avflow.runs.look_shift import silent
from avflow.runs.loop import run as run_job

CASES = {
    "share": (["--layers", "0,2", "--tokens", "answer"], ["share_last"]),
    "lens": ([], ["lens"]),
    "tokens": (
        "--tokens media+last --layers 0,3 --words 7 --words A --most 2 --every 9".split(),
        ["tokens_video", "tokens_audio", "tokens_last"],
    ),
    "shift": (["--other", "m", "--layers", "0,3", "--without-sound"], ["shift", "shift_kl"]),
    "sinks": (["--times", "1.2", "--among", "video"], []),
    "pathways": (["--keep", "video->question=0-1", "--keep", "question->last"], ["pathways"]),
    "patch": (
        ["--source", "silence+black", "--sites", "video,last,video[0,1] (mlp)", "--layers", "0-1", "--select", "all"],
        ["patch", "patch_map"],
    ),
    "text": (["--knockouts", "video->question", "--layers", "1", "--max-new-tokens", "2"], []),
}


@pytest.fixture
def samples(monkeypatch):
    """One sample's JSONL line; the model is loaded once for all tests."""
    loaded = model()
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: loaded)
    return demo()["samples"]


@pytest.mark.parametrize("what", CASES)
def test_every_experiment_ends_in_a_folder(what, samples, tmp_path):
    more, figures = CASES[what]
    result = avflow_("look", what, "m", samples, "--out", tmp_path / "run", "--limit", "1", *more)
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "run" / "rows.parquet")
    assert table.schema.names == EXPERIMENTS[what].schema.names and table.num_rows
    for name in figures:
        assert (tmp_path / "run" / "figures" / f"{name}.png").stat().st_size > 3000, result.output
        assert f"{name}.png" in result.output
    first = avflow.Sample.read_jsonl(samples)[0]
    options = {"share": {"layers": [0, 2], "tokens": "answer"}, "lens": {}, "sinks": {"times": 1.2, "among": "video"}}
    options["patch"] = {
        "source": "silence+black",
        "sites": ["video", "last", "video[0,1] (mlp)"],
        "layers": [0, 1],
        "select": "all",
    }
    options["tokens"] = {"tokens": "media+last", "layers": [0, 3], "words": [7, "A"], "keep": 2, "every": 9}
    if what in options:  # the rows are those of the function
        want = EXPERIMENTS[what].run(model(), model().prepare(first), **options[what]).table
        assert table.replace_schema_metadata(None).equals(want)


def test_a_look_without_a_figure_says_what_it_found(samples, tmp_path):
    def found(what, *more):
        result = avflow_("look", what, "m", samples, "--out", tmp_path / f"{what}{len(more)}", "--limit", "1", *more)
        assert result.exit_code == 0, result.output
        return [line.removeprefix("found       ") for line in result.stdout.splitlines() if line.startswith("found")]

    assert found("sinks", "--times", "900") == [
        "none: in 1 samples no token of media is 900 times as long as the median of its group; a smaller --times finds "
        "less distinct ones"
    ]
    first, *by_layer = found("sinks", *CASES["sinks"][0])
    rows = pq.read_table(tmp_path / "sinks4" / "rows.parquet")
    tokens = set(rows["position"].to_pylist())
    assert first.startswith(f"{len(tokens)} tokens in 1 of 1 samples, in layer")
    assert by_layer and all(line.startswith("video in layer ") for line in by_layer)
    first, *_ = found("text", *CASES["text"][0])
    changed = pq.read_table(tmp_path / "text6" / "rows.parquet")["changed"].to_pylist()
    assert first == f"{sum(changed)} of 1 answers are worded differently with a path cut"
    assert found("lens") == []


def test_heads_have_a_figure_of_their_own(samples, tmp_path):
    result = avflow_("look", "share", "m", samples, "--out", tmp_path / "run", "--limit", "1", "--heads")
    assert result.exit_code == 0 and {p.stem for p in (tmp_path / "run" / "figures").iterdir()} == {
        "share_last",
        "share_last_heads",
    }


def test_a_folder_is_resumed_and_guarded(samples, tmp_path, monkeypatch):
    out, seen = tmp_path / "run", []
    experiment = EXPERIMENTS["lens"]
    looked = [s.id for s in avflow.Sample.read_jsonl(samples)[:2]]

    def run(loaded, prompt, **options):
        seen.extend([prompt.id] if isinstance(prompt, avflow.Prompt) else [])  # else: the check of the options
        return experiment.run(loaded, prompt, **options)

    monkeypatch.setitem(EXPERIMENTS, "lens", type(experiment)(experiment.schema, run))
    for limit in ("1", "2", "2"):
        assert avflow_("look", "lens", "m", samples, "--out", out, "--limit", limit).exit_code == 0
    assert seen == looked
    said = one_line_error(avflow_("look", "lens", "m", samples, "--out", out, "--limit", "1", "--layers", "0"))
    assert "another configuration" in said
    assert json.loads((out / "summary.json").read_text())["samples"] == 2


def test_a_shift_from_a_model_that_hears_nothing(samples, tmp_path):
    """The other model's prompt is the job's, without its sound; the folder says which model that was."""
    out, other = tmp_path / "run", demo()["checkpoint"]
    result = avflow_("look", "shift", "m", samples, "--out", out, "--limit", "1", "--without-sound", "--other", other)
    assert result.exit_code == 0, result.output
    sample = avflow.Sample.read_jsonl(samples)[0]
    want = avflow.lens_shift(
        model(), model(), sample, ask=lambda p: avflow.Sample(**asked(p.sample, use_audio_in_video=False))
    )
    found = avflow.read(out)
    assert found.experiment == "lens_shift"
    assert found.table.replace_schema_metadata(None).equals(want.table.replace_schema_metadata(None))
    assert max(found.table["kl"].to_pylist()) > 1e-6  # it read something else
    config = read_config(out)
    assert config["other"] == str(other) and config["other_fingerprint"]
    same = avflow_("look", "shift", "m", samples, "--out", tmp_path / "same", "--limit", "1", "--other", other)
    assert same.exit_code == 0, same.output
    assert max(avflow.read(tmp_path / "same").table["kl"].to_pylist()) < 1e-6
    again = avflow_("look", "shift", "m", samples, "--out", out, "--limit", "1", "--other", "m", "--without-sound")
    assert "another configuration" in one_line_error(again)


def asked(sample, **changes):
    fields = {f.name: getattr(sample, f.name) for f in dataclasses.fields(sample) if f.init}
    return {k: v for k, v in fields.items() if v is not None} | changes


def test_the_other_model_is_loaded_once_and_by_every_worker_for_itself(samples, monkeypatch):
    loads = []
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: loads.append((name, dtype)) or model())
    job = LookJob("m", samples, "shift", {"other": "base", "layers": [3]}, dtype="bfloat16")
    for _ in range(2):
        job.check(model())
    assert loads == [("base", "bfloat16")] and job.other_model is model()
    assert pickle.loads(pickle.dumps(job)).other_model is None


def test_sound_that_cannot_be_left_out():
    with pytest.raises(avflow.InputError, match="made of no sample"):
        silent(SimpleNamespace(id="0", sample=None))
    heard = avflow.Sample(id="1", audio="a.wav", question="What?", answer="A")
    with pytest.raises(avflow.InputError, match="neither a video nor an image"):
        silent(SimpleNamespace(id="1", sample=heard))
    seen = avflow.Sample(id="2", audio="a.wav", image="a.png", question="What?", answer="A")
    left = silent(SimpleNamespace(id="2", sample=seen))
    assert left.audio is None and left.image == "a.png" and left.use_audio_in_video is None


def test_layers_of_pathways():
    assert parse_keep(["last=none", "video = 0-1", "a->b"]) == {"last": [], "video": [0, 1], "a->b": None}


def test_a_broken_sample_is_recorded(samples, tmp_path, monkeypatch):
    real = type(model()).prepare

    def prepare(sample, **options):
        if sample.id == broken:
            raise avflow.MediaError("cannot decode it")
        return real(model(), sample, **options)

    broken = avflow.Sample.read_jsonl(samples)[0].id
    monkeypatch.setattr(model(), "prepare", prepare)
    result = avflow_("look", "lens", "m", samples, "--out", tmp_path / "run", "--limit", "2")
    assert result.exit_code == 1 and "1 of 2 samples failed" in result.output
    monkeypatch.undo()
    job = LookJob("m", samples, "lens", limit=2)
    monkeypatch.setattr(LookJob, "load", lambda self: model())
    outcome = run_job(job, tmp_path / "run", quiet=True)
    assert not outcome.failed and len(set(outcome.table["prompt"].to_pylist())) == 2


@pytest.mark.parametrize(
    "command, message",
    [
        (["nothing"], "pass one of share, lens"),
        (["lens", "--heads"], "--heads is no option of `look lens`, but of: share"),
        (["pathways"], "no path is kept"),
        (["pathways", "--keep", "video->question=9-2"], "cannot read"),
        (["pathways", "--keep", "a->b", "--keep", "a->b=1"], "given twice"),
        (["pathways", "--keep", "a->b", "--within", "video=x"], "cannot read 'x'"),
        (["share", "--rule", "map_the_flow"], "--rule is no option of `look share`"),
        (["share", "--layers", "x"], "cannot read"),
        (["tokens", "--most", "-1"], "--most -1"),
        (["tokens", "--tokens", "vidoe"], "no group or alias is called 'vidoe'"),
        (["lens", "--other", "m"], "--other is no option of `look lens`, but of: shift"),
        (["shift"], "--other BASE_CHECKPOINT"),
        (["shift", "--other", "m", "--tokens", "vidoe"], "no group or alias is called 'vidoe'"),
        (["patch"], "--source silence"),
        (["patch", "--source", "zero", "--window", "1,3"], "one width"),
    ],
)
def test_bad_options(command, message, samples, tmp_path):
    what, *more = command
    assert message in one_line_error(avflow_("look", what, "m", samples, "--out", tmp_path / "r", *more))
    assert not (tmp_path / "r").exists()


def test_sites_are_checked_before_a_model_is_loaded(samples, tmp_path):
    more = ["--source", "zero", "--sites", "vidoe"]
    result = avflow_("look", "patch", "/no/such/model", samples, "--out", tmp_path / "r", *more)
    assert "no group or alias is called 'vidoe'" in one_line_error(result)


@pytest.mark.parametrize("what", ["share", "lens"])
def test_what_is_cut_meanwhile_is_checked_before_a_model_is_loaded(what, samples):
    options = {"knockouts": ["vidoe->last"], "cut_layers": [0]}
    with pytest.raises(avflow.InputError, match="no group or alias is called 'vidoe'"):
        LookJob("m", samples, what, options).read_samples()


def test_a_job_takes_only_what_its_configuration_can_hold(samples):
    for options in ({"source": avflow.PatchSource.zero()}, {"source": "zero", "sites": [avflow.PatchSite("last")]}):
        with pytest.raises(avflow.InputError, match=r"cannot stand in a run's config.yaml.*call avflow.patch"):
            LookJob("m", samples, "patch", options)


def test_samples_that_patching_leaves_out(samples, tmp_path):
    """Of the two ways to select, every sample falls under one."""
    counts = []
    for select in ("correct", "wrong"):
        run = tmp_path / select
        more = ["--source", "zero", "--sites", "last", "--layers", "1", "--limit", "2", "--select", select]
        result = avflow_("look", "patch", "m", samples, "--out", run, *more)
        assert result.exit_code == 0, result.output
        counts.append(pq.read_table(run / "rows.parquet").num_rows)
    assert sum(counts) == 2


def test_a_lens_under_a_knockout(samples, tmp_path):
    more = ["--limit", "1", "--knockouts", "media->question,question->last", "--cut-layers", "1-3"]
    result = avflow_("look", "lens", "m", samples, "--out", tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    prompt = model().prepare(avflow.Sample.read_jsonl(samples)[0])
    want = avflow.answer_lens(model(), prompt, knockouts=["media->question", "question->last"], cut_layers=[1, 2, 3])
    assert (
        avflow.read(tmp_path / "run")
        .table.replace_schema_metadata(None)
        .equals(want.table.replace_schema_metadata(None))
    )
    assert want.table.replace_schema_metadata(None) != avflow.answer_lens(model(), prompt).table


def test_keep_texts():
    assert parse_keep(["video -> question = 8-10, 12", "question->last"]) == {
        "video->question": [8, 9, 10, 12],
        "question->last": None,
    }
