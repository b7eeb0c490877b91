"""A slip in an option or in the samples ends the command before the run: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import avflow_, one_line_error
from demo_folder import demo, model

import avflow
import avflow.models
from avflow.cli.options import parse_layers, parse_widths
from avflow.errors import InputError
from avflow.results.results import read
from avflow.runs.folder import read_config

LAST = ("--knockouts", "all->last", "--window", "3", "--select", "all", "--limit", "1")


@pytest.fixture
def samples(monkeypatch):
    loaded = model()
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: loaded)
    return demo()["samples"]


@pytest.mark.parametrize(
    "options, says",
    [
        (["--layers", "0-3000000000"], "no model has as many layers"),
        (["--layers", "7" * 5000], "no model has as many layers"),
        (["--layers", "²"], "cannot read '²'"),
        (["--window", "²"], "window '²': write a width"),
        (["--window", "1" + "0" * 30], "write a width"),
        (["--window", "20000"], "window width 20000: pass a number of layers"),
        (["--memory", "9" * 400], "pass a positive amount, of less than 2**60 bytes"),
        (["--memory", "1B"], "memory = 1 bytes is too little for this model: a token alone takes"),
        (["--fps", "nan"], "fps is nan: sample more than 0 frames per second"),
        (["--fps", "0"], "fps is 0.0"),
        (["--fps", "-1"], "fps is -1.0"),
        (["--max-pixels", "0"], "max_pixels is 0: give an integer of 1 .. "),
        (["--limit", "0"], "limit is 0: give a number of samples"),
        (["--workers", "0"], "workers is 0"),
        (["--data", "nosuch"], "no mapping is called 'nosuch'"),
    ],
)
def test_an_option_is_refused_before_the_run(samples, tmp_path, options, says):
    result = avflow_("sweep", "m", samples, "--out", tmp_path / "run", *options)
    assert says in one_line_error(result)
    assert not list(tmp_path.glob("run/parts/*"))


@pytest.mark.parametrize("device", ["meta", "mps", "xyz", "CPU", ""])
def test_a_device_is_refused_before_the_run(tmp_path, device):
    result = avflow_("sweep", "tiny-omni", demo()["samples"], "--out", tmp_path / "run", "--device", device)
    assert f"device {device!r}: pass 'cpu', 'cuda'" in one_line_error(result)
    assert not list(tmp_path.glob("run/parts/*")) and not (tmp_path / "run" / "samples.jsonl").exists()


@pytest.mark.parametrize(
    "options, says",
    [
        (["share", "--generate", "-1", "--tokens", "answer"], "generate = -1"),
        (["sinks", "--times", "nan"], "times = nan: pass a ratio above 1"),
        (["sinks", "--among", "vidoe"], "no group or alias is called 'vidoe'"),
        (["pathways", "--keep", "video->last", "--random", "-1"], "random = -1"),
        (["pathways", "--keep", "video->last", "--seed", "-1"], "seed = -1"),
        (["text", "--max-new-tokens", "0"], "max_new_tokens = 0"),
        (["lens", "--layers", "99"], "layers [99] are out of range"),
        (["tokens", "--words", "a word of several tokens"], "pass a text of one"),
        (["tokens", "--every", "0"], "every = 0"),
    ],
)
def test_an_option_of_a_look_is_refused_before_the_first_sample(samples, tmp_path, options, says):
    result = avflow_("look", options[0], "m", samples, "--out", tmp_path / "run", *options[1:])
    assert says in one_line_error(result)
    assert not list(tmp_path.glob("run/parts/*"))


def test_layers_and_widths_are_plain_digits():
    assert parse_layers("0-2,5") == [0, 1, 2, 5] and parse_widths("1, 3") == [1, 3]
    for text in ("١", "1-²", "0-10001"):
        with pytest.raises(InputError, match="layers"):
            parse_layers(text)
    with pytest.raises(InputError, match="window"):
        parse_widths("٣")


def test_a_folder_in_the_home_folder_is_one_folder(samples, tmp_path, monkeypatch):
    """The shell expands no "~" behind "="; rows are then written to, and read from, the same place."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time everything is finished
        result = avflow_("sweep", "m", samples, "--out=~/run", *LAST)
        assert result.exit_code == 0, result.output
    assert not (tmp_path / "~").exists()
    assert len(read("~/run")) == len(read(tmp_path / "home" / "run")) > 0
    assert avflow_("report", "~/run").exit_code == 0


def test_names_that_are_no_utf8(samples, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = avflow_("sweep", "m", samples, "--out", folder / "run", *LAST)
    assert result.exit_code == 0, result.output
    again = avflow_("sweep", "m", samples, "--out", folder / "run", *LAST)
    assert again.exit_code == 0 and "1 finished before" in again.output
    assert len(read(folder / "run")) > 0


def test_config_is_read_as_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "config.yaml").write_text("samples: /data/café.jsonl\n", encoding="utf-8")
    code = f"from avflow.runs.folder import read_config; print(ascii(read_config({str(tmp_path)!r})))"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True)
    assert found.stdout.strip() == ascii({"samples": "/data/café.jsonl"}), found.stderr
    for text, says in (("a: " + "[" * 50_000, "nested too deeply|not YAML"), ("a: " + "7" * 5000, "not YAML")):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=says):
            read_config(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        {"id": [1], "status": "ok"},
        {"id": "x", "status": "failed"},
        {"id": "x", "status": ["ok"]},
        {"id": "x", "status": "failed", "reason": 3},
        {"id": "x", "status": "selected_out", "seconds": "long"},
    ],
)
def test_a_line_of_the_folder_that_is_no_record_is_as_if_it_were_not_there(samples, tmp_path, line):
    assert avflow_("sweep", "m", samples, "--out", tmp_path / "run", *LAST).exit_code == 0
    with open(tmp_path / "run" / "samples.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    result = avflow_("sweep", "m", samples, "--out", tmp_path / "run", *LAST)
    assert result.exit_code == 0 and "1 finished before" in result.output
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 1


def test_text_that_no_model_reads_fails_its_sample_alone():
    loaded = model()
    sample = avflow.Sample.read_jsonl(demo()["samples"])[0]
    values = {"id": "s", "video": sample.video, "question": "What?"}
    with pytest.raises(InputError, match=r"sample 's': its text holds the special token '<\|im_end\|>'"):
        loaded.prepare(avflow.Sample(**values, answer="red<|im_end|>"))
    most = loaded.config.max_position_embeddings
    with pytest.raises(InputError, match=f"the text alone has .* tokens, the model was trained for {most}"):
        loaded.prepare(avflow.Sample(**values | {"question": "color " * most}, answer="red"))
