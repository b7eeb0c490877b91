"""Makes what is uploaded: two source archives, a wheel of avflow-models, a wheel of avflow for each Python at hand."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import old_glibc
import repair
from steps import CannotRun, Failed, run

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "release"
DIST = ROOT / "dist"


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Failed(f"{folder} should have one {pattern}, and has {[path.name for path in found]}")
    return found[0]


def sources_and_models() -> str:
    """avflow-VERSION.tar.gz, avflow_models-VERSION.tar.gz and its wheel, in DIST, which is emptied first."""
    shutil.rmtree(DIST, ignore_errors=True)
    # Without isolation: the archive needs setuptools alone, and neither torch nor CMake.
    build = ("-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", DIST)
    run(sys.executable, *build, "--sdist", ROOT)
    run(sys.executable, *build, ROOT / "avflow-models")
    return ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in sorted(DIST.iterdir()))


def unpacked() -> Path:
    """The source archive's folder, with what was compiled there before: files keep their times."""
    archive = only(DIST, "avflow-*.tar.gz")
    folder = WORK / "source"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != "build":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with tarfile.open(archive) as tar:
        top = archive.name.removesuffix(".tar.gz")
        for member in tar.getmembers():
            if member.name != top:
                member.name = member.name.removeprefix(f"{top}/")
                tar.extract(member, folder)
    return folder


def interpreter(version: str) -> str:
    """The Python of this version that is on PATH or was installed by pyenv.

    Raises:
        CannotRun: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
    for python in [shutil.which(f"python{version}"), *of_pyenv]:
        if python and subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
            return python
    raise CannotRun(f"there is no python{version}; the workflow makes this wheel")


def environment(version: str) -> Path:
    """A new venv of this Python with nothing in it; its interpreter."""
    folder = WORK / f"python{version}"
    shutil.rmtree(folder, ignore_errors=True)
    run(interpreter(version), "-m", "venv", folder)
    run(folder / "bin/python", "-m", "pip", "install", "--upgrade", "pip")
    return folder / "bin/python"


def torch_of(python: Path, torch: str) -> Path:
    """Installs it; its folder."""
    run(python, "-m", "pip", "install", torch)
    return Path(run(python, "-c", "import torch; print(torch.__path__[0])").strip().splitlines()[-1])


def wheel(python: Path, torch: Path) -> Path:
    """From the source archive as pip does it for a user, linked to an old glibc, repaired: a wheel in DIST.

    torch: its folder, of any Python.
    """
    linked = WORK / "linked"
    shutil.rmtree(linked, ignore_errors=True)
    settings = shlex.join([] if old_glibc.is_old_enough() else old_glibc.make(WORK / "glibc"))
    pip = (python, "-m", "pip", "wheel", "--no-deps", "-w", linked, unpacked())
    run(*pip, AVFLOW_CMAKE_ARGS=settings, AVFLOW_TORCH_DIR=str(torch))
    repaired = WORK / "repaired"
    shutil.rmtree(repaired, ignore_errors=True)
    run(*repair.command(only(linked, "*.whl"), repaired))
    found = only(repaired, "*.whl")
    return Path(shutil.move(found, DIST / found.name))
