"""Every command with any options: exit 0, or one line `error: ...` and exit 2; no traceback, nothing else."""

from __future__ import annotations

import re

import pytest
from command import avflow_
from demo_folder import demo, model
from fuzzing import TEXTS, fuzz
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

import avflow.models
from avflow.cli import main as cli

WORDS = """
0 1 3 -1 1.5 1e400 nan inf -inf 0x10 1_0 ٣ all 0-3 3-0 0-3000000000 1,,2 2- - 1,3,5 0.01 true 8GB 1B 0GB -5MB GB
video audio+video video->last video-> -> a->b->c last->last cross:video av_video all->last answer question
cpu CPU cuda:99 xyz meta mps float32 float64 int8 auto correct wrong center top_down tvbench nosuch drop keep zero
omni_3b_av_video / . /dev/null /dev/full
""".split()
NASTY = TEXTS | st.sampled_from([*WORDS, "9" * 400, "1" + "0" * 30, "7" * 5000])
# What begins processes or a server is left alone.
FEW = {
    "--ray": st.sampled_from(["", "\ud800", "no such"]),
    "--workers": st.sampled_from(["0", "-1", "x", "1.5", "", "1"]),
}
NEVER = {"--help", "--debug", "--out", "--run", "--dry-run"}


@st.composite
def some_options(draw, command: str, but: tuple[str, ...] = ()):
    parameters = get_command(cli.app).commands[command].params
    there = {p.opts[0]: p.is_flag for p in parameters if p.param_type_name == "option"}  # name -> is it a flag?
    names = sorted(set(there) - NEVER - set(but))
    out = []
    for name in draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) if names else []:
        out += [name] if there[name] else [name, draw(FEW.get(name, NASTY))]
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds one sample, in one.jsonl."""
    folder = tmp_path_factory.mktemp("options")
    sample = avflow.Sample.read_jsonl(demo()["samples"])[0]
    (folder / "one.jsonl").write_text(sample.to_json() + "\n")
    return folder


@pytest.fixture(autouse=True, scope="module")
def loaded_once():
    """The model is loaded once, where the options of loading are as they should be."""
    whole, load, checkpoint = model(), avflow.models.load, demo()["checkpoint"]

    def quick(name, device="cpu", dtype="float32", **rest):
        return whole if (device, dtype) == ("cpu", "float32") else load(checkpoint, device=device, dtype=dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avflow.models, "load", quick)
        yield


def check(*arguments, codes=(0, 2)) -> None:
    result = avflow_(*arguments)  # raises what is no SystemExit
    assert result.exit_code in codes, (result.exit_code, result.output)
    assert "Traceback" not in result.output
    if result.exit_code == 2 and "Usage: " not in result.stderr:  # the parser's own errors have a form of their own
        lines = [line for line in re.split(r"[\r\n]+", result.stderr) if line.strip()]
        lines = [line for line in lines if not re.match(r"\w+: +\d+%", line)]  # progress bars
        assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr


@pytest.mark.parametrize("command", ["sweep", "plan"])
@fuzz(30)
@given(data=st.data())
def test_over_samples(folder, command, data):
    """As far as the estimate of the cost: media are read, no layer runs. A sample may fail (exit 1)."""
    check(command, "m", folder / "one.jsonl", "--dry-run", *data.draw(some_options(command)), codes=(0, 1, 2))


@fuzz(40)
@given(data=st.data())
def test_look(folder, data):
    """Everything is checked, and the run ends at its samples, which are not there."""
    kind = data.draw(st.sampled_from(["share", "map", "lens", "sinks", "pathways", "text", "nosuch"]))
    where = ("look", kind, "m", folder / "none.jsonl", "--out", folder / "look")
    check(*where, *data.draw(some_options("look")), codes=(2,))


@fuzz(40)
@given(data=st.data())
def test_generate(data):
    """A question without media, or with some that are not there: nothing is generated."""
    given = data.draw(some_options("generate", but=("--model", "--question")))
    check("generate", "--model", "m", "--question", data.draw(NASTY), *given, codes=(2,))


@fuzz(30)
@given(tokens=st.sampled_from(["0", "-1", "199", "x", "1e9", "9" * 400]) | TEXTS, data=st.data())
def test_bench(tokens, data):
    check(
        "bench", "no such model", "--tokens", tokens, *data.draw(some_options("bench", but=("--tokens",))), codes=(2,)
    )


@pytest.mark.parametrize("command", ["report", "merge"])
@fuzz(30)
@given(data=st.data())
def test_folders(folder, command, data):
    names = TEXTS.filter(lambda t: t[:1] != "-") | st.just(str(folder))
    folders = data.draw(st.lists(names, min_size=1, max_size=3))
    check(command, *folders, *data.draw(some_options(command)), codes=(2,))
