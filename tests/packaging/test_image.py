"""The Dockerfile: what it copies is enough to build from, its versions and words are those of the house."""

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/release"))
import image  # noqa: E402

TEXT = (ROOT / "Dockerfile").read_text()
STEPS = image.steps(TEXT)


def value(name: str) -> str:
    (found,) = [rest.partition("=")[2] for word, rest in STEPS if word == "ARG" and rest.startswith(f"{name}=")]
    return found


def test_what_is_copied_is_what_git_has(tmp_path):
    """Nothing that was compiled here, and nothing less: the wheel's files and the programs that make it."""
    image.copy(ROOT, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode:
        pytest.skip("this is no clone")
    tops = ("tools/", "cmake/", "csrc/", "avflow_ext/", "python/", "avflow-models/")
    tracked = {name for name in git.stdout.splitlines() if name.startswith(tops)}
    new = subprocess.run(["git", "ls-files", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    assert found - set(new.stdout.splitlines()) == tracked | {
        "pyproject.toml", "setup.py", "CMakeLists.txt", "LICENSE", "README.md",
    }  # fmt: skip


def test_what_is_copied_is_enough(tmp_path):
    """The build's Python part, and CMake's configuration, which names every source; `make release` compiles it."""
    image.copy(ROOT, tmp_path)
    run = {"cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", "made"], **run)
    assert done.returncode == 0 and (tmp_path / "made/avflow/report/js/main.js").is_file(), done.stderr
    cmake = pytest.importorskip("cmake", reason="the build's tools are not installed in this environment")
    options = ["-S", ".", "-B", "b", "-DAVFLOW_CUDA=OFF", "--log-level=ERROR"]
    done = subprocess.run([Path(cmake.CMAKE_BIN_DIR) / "cmake", *options], **run)
    assert done.returncode == 0, done.stderr


def test_a_missing_path_is_told(tmp_path):
    (tmp_path / ".dockerignore").write_text("")
    with pytest.raises(FileNotFoundError, match="COPY nowhere/ x/: there is no nowhere/"):
        image.copied(tmp_path, image.Step("COPY", "nowhere/ x/"))


@pytest.mark.parametrize(
    "path, left_out",
    [
        ("avflow_ext/_C.cpython-311-x86_64-linux-gnu.so", True),
        ("python/avflow/cli/__pycache__/main.cpython-311.pyc", True),
        ("avflow_ext/include/avflow/avflow.h", True),
        ("csrc/include/avflow/avflow.h", False),
        (".venv-release/bin/python", True),
        ("tools/build_backend.py", False),
    ],
)
def test_what_is_left_out(path, left_out):
    assert image.ignored(PurePosixPath(path), image.patterns((ROOT / ".dockerignore").read_text())) == left_out


def test_its_versions_are_those_of_makefile_and_pyproject():
    assert f"TORCH ?= torch=={value('TORCH')}\n" in (ROOT / "Makefile").read_text()
    assert f"Programming Language :: Python :: {value('PYTHON')}" in (ROOT / "pyproject.toml").read_text()
    images = [rest.split()[0] for word, rest in STEPS if word == "FROM"]
    assert images == ["python:${PYTHON}-slim-bookworm"] * 2  # the second one finds the first one's venv


def test_it_runs_as_nobody_in_particular_and_has_no_compiler():
    last = STEPS[max(i for i, step in enumerate(STEPS) if step.word == "FROM") :]
    assert image.Step("USER", "1000") in last and [step for step in last if step.word in ("ENTRYPOINT", "CMD")]
    assert "apt-get" not in " ".join(step.rest for step in last)


def test_the_pages_commands_have_its_arguments():
    for page in (TEXT, (ROOT / "docs/install.md").read_text()):
        named = re.findall(r"--build-arg (\w+)=", page)
        assert named and set(named) <= {"PYTHON", "TORCH", "TORCH_BUILD"}
        assert {word for word in re.findall(r"docker (\w+)", page)} <= {"build", "run"}


def test_a_step_that_fails_ends_the_trial(tmp_path):
    """Also before a &&, which `set -e` would pass over."""
    (tmp_path / "src").mkdir()
    text = image.script('RUN false && true\nENTRYPOINT ["echo", "reached"]', tmp_path)
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True)
    assert done.returncode == 1 and "reached" not in done.stdout
    good = image.script('ARG A=1\nRUN echo $A\nWORKDIR /src\nENTRYPOINT ["echo", "reached"]', tmp_path, A="2")
    assert subprocess.run(["sh", "-c", good], capture_output=True, text=True).stdout == "2\nreached\n"
