"""`make test` leaves an environment in which transformers and peft import: the torchvision that is built for another
torch lies in a folder of its own, and nothing else asks for one."""

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_makefile_puts_it_into_a_folder_of_its_own():
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "$(TORCHVISION)" in line]
    assert lines and all("--no-deps --target $(VENV)/foreign" in line for line in lines)


def test_no_extra_brings_one():
    """Of what is installed here: what the extras name, and what that needs, all the way down."""
    seen, todo = set(), ["avflow[test]", "avflow[anchors]", "avflow[dev]"]
    while todo:
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?", todo.pop()).groups()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in needs:
            spec, _, marker = need.partition(";")
            asked = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
            if asked is None or asked[1] in (extras or "").split(","):
                todo.append(re.match(r"[\w.-]+(?:\[[\w,-]+\])?", spec.replace(" ", ""))[0])
    names = {name.lower() for name, _ in seen}
    assert {"peft", "pytest", "datasets"} <= names  # the walk finds what it should
    assert "torchvision" not in names
