"""benchmarks/cuda/forms.py where there is no device: what stands around the kernels."""

import json
from pathlib import Path

import cuda_emulator
import pytest
import torch

CSRC = Path(__file__).resolve().parents[2] / "csrc"


def test_every_form_of_the_sources_is_timed(scripts):
    script = scripts("cuda/forms")
    text = (CSRC / "cuda" / "call.h").read_text()
    told = text[text.index("Which forms") : text.index("#ifndef AVFLOW_FORM")]
    assert [
        int(line.split()[1]) for line in told.splitlines() if line[:5] == "//   " and line.split()[1].isdigit()
    ] == sorted(script.FORMS.values())
    assert script.Arguments._fields_ == cuda_emulator.Args._fields_


def test_forms_are_compiled_apart(scripts, tmp_path):
    script = scripts("cuda/forms")
    outputs = set()
    for form in script.FORMS.values():
        *compiled, linked = script.commands("nvcc", form, tmp_path)
        for command in compiled:
            assert f"-DAVFLOW_FORM={form}" in command and Path(command[-1]).is_file()
            outputs.add(command[command.index("-o") + 1])
        assert set(linked[linked.index("-o") + 2 :]) <= outputs
    assert len(outputs) == 3 * len(script.FORMS) == 12
    # Another device: its own machine code, and nothing of Hopper's.
    for form in script.forms((8, 9)).values():
        *compiled, linked = script.commands("nvcc", form, tmp_path, (8, 9))
        assert [Path(command[-1]).name for command in compiled] == ["attention.cu", "tall.cu"]
        assert all("-gencode=arch=compute_89,code=sm_89" in command for command in compiled)
        assert not any("HOPPER" in word for command in (*compiled, linked) for word in command)
    assert set(script.FORMS) - set(script.forms((8, 9))) == {"words apart", "pairs"}


def test_the_kernels_of_sm80_are_timed_side_by_side(scripts, monkeypatch):
    script = scripts("cuda/forms")
    calls = []

    def call_of(library, case, problem, kernel):
        calls.append((library, kernel))
        return lambda: torch.zeros(2)

    class Case:
        def sdpa(self, backend):
            return lambda: torch.zeros(2)

    cases = script.Cases(scripts("lib/report").Report("cpu", None, 60.0), {form: form for form in script.FORMS}, 0.1)
    monkeypatch.setattr(script, "call_of", call_of)
    monkeypatch.setattr(script, "operands", lambda rows, keys, size: Case())
    added = {}
    monkeypatch.setattr(cases, "add", lambda name, candidates, *rest: added.update({name: list(candidates)}))
    cases.prefill_by_sm80("3B", 256, "no cuts")
    cases.prefill_by_sm80("3B", 256, "half of all")
    assert calls[:3] == [("one loop", "cuda"), ("branch-free", "cuda"), ("branch-free", "tall")]
    first, second = added.values()
    assert first == [*script.OF_SM80, "sdpa flash"] and second == [*script.OF_SM80]


def test_differences(scripts):
    script = scripts("cuda/forms")
    x = torch.tensor([1.0, 4.0])
    assert script.largest_difference({"a": x, "b": x + 0.03}) == pytest.approx(0.03, rel=0.01)
    for other in (x + 0.2, x * torch.nan):
        with pytest.raises(RuntimeError, match="b differs"):
            script.largest_difference({"a": x, "b": other})


def test_few_rows_stand_beside_the_other_kernel(scripts, tmp_path, monkeypatch):
    """All forms by the Hopper kernel, and the one for sm_80 once."""
    script, planned = scripts("cuda/forms"), []

    def call_of(library, case, problem, kernel):
        planned.append((library, len(problem.rows), len(problem.keys), kernel))
        return lambda: torch.zeros(1)

    monkeypatch.setattr(script, "operands", lambda rows, keys, size: None)
    monkeypatch.setattr(script, "call_of", call_of)
    monkeypatch.setattr(script, "best_times", lambda calls, seconds: (dict.fromkeys(calls, 1.0), {}))
    path = tmp_path / "forms.json"
    cases = script.Cases(scripts("lib/report").Report("cpu", str(path), 60.0), {"a": "A", "b": "B"}, 0.1)
    cases.few_rows(128)
    assert planned == [("A", 128, 16384, "hopper"), ("B", 128, 16384, "hopper"), ("A", 128, 16384, "cuda")]
    (found,) = json.loads(path.read_text())["cases"].values()
    assert list(found["seconds"]) == ["a", "b", "kernel for sm_80"]


def test_cases_go_to_the_file(scripts, tmp_path, monkeypatch):
    """Forms that take 1, 2 and 4 s, two calls at a time; no device, no compiler."""
    script, path = scripts("cuda/forms"), tmp_path / "forms.json"
    monkeypatch.setattr(script, "best_times", lambda calls, seconds: ({k: call() for k, call in calls.items()}, {}))
    report = scripts("lib/report").Report("cpu", str(path), 60.0)
    cases = script.Cases(report, {}, 0.1)
    cases.add("x", {"one loop": lambda: 4.0, "branch-free": lambda: 2.0, "pairs": lambda: 1.0}, 0.5, 4e12, 2)
    found = json.loads(path.read_text())["cases"]["x"]
    assert found["seconds"] == {"one loop": 2.0, "branch-free": 1.0, "pairs": 0.5}
    assert found["tflops"] == {"one loop": 2.0, "branch-free": 4.0, "pairs": 8.0}
    assert found["largest_difference"] == 0.5
