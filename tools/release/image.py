"""The Dockerfile without docker: its lint, and its steps as a shell script in an empty folder.

Of the base image nothing is here: Python and the compiler are this machine's, apt-get and the user are left out, and
torch comes from where pip finds it here. Both stages share a folder: what the second copies from the first lies there.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from packages import ROOT, WORK
from steps import run

OF_THE_IMAGE = re.compile(r"(?<![\w/.])/(?=(?:opt|src|work|home|var)\b)")  # folders that an image has to itself
LEFT_OUT = ("apt-get", "useradd", "chown")


class Step(NamedTuple):
    """One instruction, its continued lines joined."""

    word: str  # RUN, COPY ...
    rest: str


def steps(text: str) -> list[Step]:
    """The Dockerfile's instructions, without comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines()]


def ignored(path: PurePosixPath, patterns: list[str]) -> bool:
    """Whether .dockerignore leaves it out: `**/name` at any depth, else a path from the top, and all that is in it."""
    for pattern in patterns:
        if pattern.startswith("**/"):
            if any(fnmatch(part, pattern[3:]) for part in path.parts):
                return True
        elif any(fnmatch(str(parent), pattern) for parent in [path, *path.parents]):
            return True
    return False


def patterns(text: str) -> list[str]:
    """The lines of a .dockerignore."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def copied(context: Path, step: Step) -> list[Path]:
    """The files of the context that one COPY takes, relative to it.

    Raises:
        FileNotFoundError: it names what is not there.
    """
    left_out = patterns((context / ".dockerignore").read_text())
    found: list[Path] = []
    for name in step.rest.split()[:-1]:
        source = context / name
        if not source.exists():
            raise FileNotFoundError(f"COPY {step.rest}: there is no {name}")
        files = [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if path.is_file()]
        relative = [path.relative_to(context) for path in files]
        found += [path for path in relative if not ignored(PurePosixPath(path), left_out)]
    return found


def copy(context: Path, target: Path) -> int:
    """What all COPYs take, into target; how many files."""
    files = [
        path
        for step in steps((context / "Dockerfile").read_text())
        if step.word == "COPY" and not step.rest.startswith("--from")
        for path in copied(context, step)
    ]
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(context / path, target / path)
    return len(files)


def script(text: str, root: Path, **args: str) -> str:
    """The instructions as a script for sh, the image's folders below root; args as of --build-arg."""
    lines = ["set -u", f'PATH="{root}/bin:$PATH"']
    lines += [f"{name}={shlex.quote(value)}" for name, value in args.items()]
    command: list[str] = []
    for word, rest in steps(text):
        here = OF_THE_IMAGE.sub(lambda _: f"{root}/", rest)
        if word == "ARG" and (name := rest.partition("=")[0]) not in args and "=" in rest:
            lines.append(f"{name}={shlex.quote(rest.partition('=')[2])}")
        elif word == "ENV":
            lines.append(f"export {here}")
        elif word == "RUN":
            body = re.sub(r' --index-url "\S+"', "", here).replace("mkdir ", "mkdir -p ")
            lines.append(f"{{ {body}; }} || exit 1")  # `set -e` lets a && b pass where a fails
        elif word == "WORKDIR":
            lines += [f"mkdir -p {here} && cd {here} || exit 1"]
        elif word in ("ENTRYPOINT", "CMD"):
            command += json.loads(rest)
    return "\n".join([*lines, shlex.join(command)]) + "\n"


def lint() -> str:
    """What hadolint says of the Dockerfile: nothing."""
    run("hadolint", ROOT / "Dockerfile")
    return "hadolint has nothing to say"


def trial(**args: str) -> str:
    """All steps, for the CPU unless args say otherwise, and the command that the image runs by itself."""
    root = WORK / "image"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "home/avflow"):  # the second one is useradd's
        (root / folder).mkdir(parents=True)
    (root / "bin/python").symlink_to(sys.executable)
    for name in LEFT_OUT:
        (root / "bin" / name).symlink_to(shutil.which("true") or "/bin/true")
    count = copy(ROOT, root / "src")
    path = root / "steps.sh"
    path.write_text(script((ROOT / "Dockerfile").read_text(), root, **args))
    said = run("sh", path)
    return f"{count} files, {said.strip().splitlines()[-1]}"


if __name__ == "__main__":
    print(lint(), trial(**dict(word.split("=", 1) for word in sys.argv[1:])), sep="\n")
