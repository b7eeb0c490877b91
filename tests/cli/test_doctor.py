"""`avflow doctor`: what it tells, and what it calls a problem."""

import json
import re
import sys

from command import avflow_

import avflow.cli.doctor
import avflow_ext


def test_doctor(monkeypatch):
    facts = json.loads(avflow_("doctor", "--json").stdout)
    assert facts["versions"]["torch"] and facts["torch"]["threads"] >= 1 and "h264" in facts["codecs"]
    own = facts["the model's own forward"]
    for name in ("tiny-omni", "tiny-salmonn"):
        difference, bound = re.match(
            r"(\S+) in a logit at most \(bound (\S+); .*3 compared, of 3 kinds", own[name]
        ).groups()
        assert 0 <= float(difference) < float(bound)
    monkeypatch.setattr(avflow.cli.doctor, "checked_models", lambda problems: own)
    text = avflow_("doctor").stdout
    assert own["tiny-omni"] in text
    assert "compiled module" in text and "torchvision" in text
    assert all(f"problem: {p}" in text for p in facts["problems"])


def test_doctor_tells_of_a_module_of_another_version(monkeypatch):
    """Such as after `git pull` without `make ext`."""
    monkeypatch.setattr(avflow.cli.doctor, "checked_models", lambda problems: {"tiny-omni": "not looked at"})
    assert f"avflow {avflow.__version__}" in avflow_("doctor").stdout
    monkeypatch.setattr(avflow_ext, "__version__", "0.1.0")
    result = avflow_("doctor")
    assert result.exit_code == 1
    assert f"problem: the compiled module is of avflow 0.1.0, this is {avflow.__version__}: `make ext`" in result.stdout


def test_doctor_asks_the_plug_in_for_vllm(monkeypatch):
    """Where there is none; tests/serving has it where there is one."""
    monkeypatch.setattr(avflow.cli.doctor, "checked_models", lambda problems: {"tiny-omni": "not looked at"})
    monkeypatch.setattr("avflow_vllm.compat.installed_version", lambda: None)
    result = avflow_("doctor", "--vllm")
    assert result.exit_code == 1 and "problem: vLLM is not installed: pip install 'avflow[vllm]'" in result.stdout
    monkeypatch.setattr("avflow_vllm.compat.installed_version", lambda: "0.31.0")
    assert "written for vLLM 0.32, and this is 0.31.0" in avflow_("doctor", "--vllm").stdout
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    assert "the plug-in for vLLM is not registered" in avflow_("doctor", "--vllm").stdout
    assert "vLLM" not in avflow_("doctor").stdout


def test_doctor_tells_of_a_model_that_does_not_run_as_it_should(monkeypatch):
    """Whatever the reason: here the walk's attention is wrong."""
    from avflow.cli.self_check import checked_models
    from avflow.walk import walk

    attend = walk.attention
    monkeypatch.setattr(walk, "attention", lambda q, k, v, *a, **more: attend(q, k, 2 * v, *a, **more))
    problems: list[str] = []
    assert set(checked_models(problems).values()) == {"failed"}
    assert len(problems) == 2 and "tiny-omni of avflow-models does not run as it should" in problems[0]
    assert "differ by" in problems[0]


def test_doctor_does_without_torchvision(monkeypatch):
    """It is optional; what it would do is done in plain torch."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # `import torchvision` raises ImportError
    result = avflow_("doctor", "--json")
    facts = json.loads(result.stdout)
    assert facts["problems"] == [] and result.exit_code == 0
    assert "not used" in facts["processor"]["torchvision"] and "plain torch" in facts["processor"]["path"]
    monkeypatch.setattr(avflow.cli.doctor, "checked_models", lambda problems: facts["the model's own forward"])
    assert "no problem found" in avflow_("doctor").stdout
