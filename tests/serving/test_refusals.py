"""What is said when an engine starts, and which vLLM is refused. Needs no vLLM."""

import logging
from importlib.metadata import EntryPoint

import pytest

import avflow_vllm
from avflow import InputError
from avflow_vllm import compat, doctor, refusals
from avflow_vllm.settings import read_settings


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(refusals, "_said", set())
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    caplog.set_level(logging.INFO, "vllm.avflow")
    return caplog


def test_the_log_says_what_is_not_as_in_vllm_alone(said):
    for _ in range(2):  # vLLM makes several configurations of one engine
        refusals.describe(read_settings({"avflow": {"video": 24}}), 36, omni=True)
    texts = [record.getMessage() for record in said.records]
    assert [record.levelname for record in said.records] == ["INFO", "WARNING", "INFO"]
    assert texts[0] == "avflow: video leaves after layer 24, keeping KeepNone()"
    assert "near these that do better: 23" in texts[1] and "positions" in texts[2]


def test_positions_are_said_where_they_are_corrected_alone(said):
    refusals.describe(read_settings({"avflow": {}}), 36, omni=True)
    assert "one token early" in said.text
    said.clear()
    refusals.describe(read_settings({"avflow": {"positions": "vllm"}}), 36, omni=True)
    refusals.describe(read_settings({"avflow": {}}), 36, omni=False)
    assert said.records == []


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.0", None])
def test_another_vllm_is_refused(version, monkeypatch):
    monkeypatch.setattr(compat, "installed_version", lambda: version)
    monkeypatch.setattr(avflow_vllm, "_done", False)
    with pytest.raises(InputError, match=rf"written for vLLM 0.32, and this is {version}"):
        avflow_vllm.register()


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu"])
def test_the_minor_version_counts(version, monkeypatch):
    monkeypatch.setattr(compat, "installed_version", lambda: version)
    compat.check_version()


def test_the_doctor_sees_a_plug_in_that_is_left_out(monkeypatch):
    point = EntryPoint("avflow", "avflow_vllm:register", doctor.GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: (point,))
    problems = []
    assert doctor._plug_in(problems) == "registered" and problems == []
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    assert "left out" in doctor._plug_in(problems) and "add avflow to it" in problems[0]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    assert doctor._plug_in(problems) == "not registered" and "install avflow anew" in problems[1]
