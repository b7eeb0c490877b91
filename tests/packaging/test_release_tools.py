"""tools/release and the workflow that publishes: both tag and check the same, and steps tell what they could not."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/release"))
import looks  # noqa: E402
import repair  # noqa: E402
from packages import interpreter  # noqa: E402
from steps import CannotRun, Failed, Report, run  # noqa: E402

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())


def test_steps_go_on_and_only_a_failure_is_one(capsys):
    report = Report()

    def lacks():
        raise CannotRun("no such tool")

    assert report.step("one", lambda: "found\nmore") and not report.step("two", lacks)
    assert report.end() == 0
    assert not report.step("three", lambda: run(sys.executable, "-c", "print('why'); raise SystemExit(3)"))
    assert report.end() == 1
    shown = capsys.readouterr().out
    assert re.search(r"passed +\d+ s  one: found\n", shown) and re.search(r"NOT RUN +\d+ s  two: no such tool\n", shown)
    assert "ended with 3:\nwhy" in shown and "== 1 failed" in shown


def test_a_python_that_is_not_there_is_named():
    with pytest.raises(CannotRun, match="there is no python3.2; the workflow makes this wheel"):
        interpreter("3.2")


@pytest.mark.parametrize("tag", ["linux_x86_64", "manylinux_2_34_x86_64"])
def test_a_wheel_with_newer_symbols_is_refused(monkeypatch, tmp_path, tag):
    wheel = tmp_path / f"avflow-1-cp311-cp311-{repair.PLATFORM}.whl"
    wheel.write_bytes(b"")
    monkeypatch.setattr(looks, "run", lambda *command: f'{{"overall_tag": "linux_x86_64", "sym_tag": "{tag}"}}')
    with pytest.raises(Failed, match=tag):
        looks.platform_of(wheel)
    monkeypatch.setattr(looks, "run", lambda *command: '{"sym_tag": "manylinux_2_27_x86_64"}')
    assert "manylinux_2_27" in looks.platform_of(wheel)


def test_torchs_libraries_stay_torchs():
    command = repair.command(Path("a.whl"), Path("out"))
    excluded = [command[i + 1] for i, word in enumerate(command) if word == "--exclude"]
    assert excluded == ["libtorch_cpu.so", "libc10.so"]
    assert command[command.index("--plat") + 1].startswith("manylinux_2_28_")


def test_the_workflow_publishes_only_tags_and_on_testpypi_first():
    jobs = WORKFLOW["jobs"]
    assert jobs["testpypi"]["if"] == "github.ref_type == 'tag'" and jobs["testpypi"]["needs"] == "look"
    assert jobs["from-testpypi"]["needs"] == "testpypi" and jobs["pypi"]["needs"] == "from-testpypi"
    with_identity = {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})}
    assert with_identity == {"testpypi", "pypi"} and WORKFLOW["permissions"] == {"contents": "read"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_workflow_builds_with_the_tools_of_make_release():
    env = WORKFLOW["jobs"]["wheels"]["env"]
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    assert env["CIBW_BUILD"].split() == [f"cp3{minor}-*" for minor in range(int(oldest), 15)]
    named = set(re.findall(r"tools/release/\w+\.(?:py|txt)", yaml.safe_dump(WORKFLOW)))
    assert {"tools/release/repair.py", "tools/release/installed.py", "tools/release/looks.py"} <= named
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert "AVFLOW_CUDA=1" in env["CIBW_ENVIRONMENT"] and "AVFLOW_CUDA_COMPRESS=OFF" in env["CIBW_ENVIRONMENT"]
