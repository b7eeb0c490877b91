"""The house's order: no import circle, and no import against the floors of docs/architecture.md."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from import_graph import Arrow, against, arrows, circles, floors, modules, named, room_of

from avflow.moved import MOVED

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/architecture.md"
PACKAGES = ("python/avflow", "python/avflow_vllm", "avflow_ext", "benchmarks", "training")


@pytest.fixture(scope="module")
def found() -> list[Arrow]:
    files = {}
    for package in PACKAGES:
        files |= modules(ROOT / package)
    return arrows(files)


def test_no_import_circle(found):
    groups = circles((a.source, a.target) for a in found)
    within = [str(a) for group in groups for a in found if a.source in group and a.target in group]
    assert groups == [], "\n".join(["modules that import each other:", *within])


def test_every_import_between_rooms_leads_to_a_lower_floor(found):
    wrong = [str(arrow) for arrow in against(found, floors(PAGE.read_text()))]
    assert wrong == [], "\n".join(["against the floors of docs/architecture.md:", *wrong])


def test_nothing_of_ours_imports_an_old_path():
    """avflow.moved serves paths of 0.1, where an import against the floors would not be seen."""
    files = {}
    for package in PACKAGES:
        files |= modules(ROOT / package)
    wrong = [
        f"{name} (line {line}) imports {target}"
        for name, path in files.items()
        if path.suffix == ".py"
        for target, line in named(name, path)
        if target.partition(".")[0] == "avflow" and target.partition(".")[2] in MOVED and target not in files
    ]
    assert wrong == []


def test_the_page_names_every_room_and_no_other(found):
    rooms = {room_of(name) for package in PACKAGES for name in modules(ROOT / package)}
    assert set(floors(PAGE.read_text())) == rooms


def test_the_drawing_shows_the_rooms_of_the_page():
    drawn = re.findall(r">(\w+)<", (ROOT / "docs/architecture.svg").read_text())
    assert [room for room in floors(PAGE.read_text()) if room not in drawn] == []


def test_the_kernels_include_only_what_is_below():
    """csrc: core knows nothing else, cpu and cuda know core and not each other; the rest knows what is below."""
    allowed = {"core": set(), "cpu": {"core"}, "cuda": {"core"}, "torch": {"core"}}
    allowed |= {"c": {"core", "cuda"}, "python": {"core", "cuda"}, "include": set()}
    wrong = []
    for path in sorted((ROOT / "csrc").rglob("*.*")):
        room = path.relative_to(ROOT / "csrc").parts[0]
        for target in re.findall(r'#include "(\w+)/', path.read_text()):
            if room in allowed and target != room and target not in allowed[room]:
                wrong.append(f"{path.relative_to(ROOT)} includes {target}/")
    assert wrong == []


# --- the test itself -----------------------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = folder / "avflow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return modules(folder / "avflow")


TWO_FLOORS = "<!-- floors -->\n| floor | rooms |\n|---|---|\n| 1 | `avflow`, `up` |\n| 2 | `down` |\n<!-- /floors -->"


@pytest.mark.parametrize(
    "way_back",
    [
        "from ..up import a\n",
        "from ..up.a import f\n",
        "import avflow.up.a\n",
        "from avflow.up import a\n",
        "def later():\n    from ..up.a import f\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..up.a import f\n",
        "try:\n    from ..up.a import f\nexcept ImportError:\n    f = None\n",
    ],
)
def test_a_circle_and_an_arrow_upwards_are_found(tmp_path, way_back):
    files = {"__init__.py": "", "up/__init__.py": "", "up/a.py": "from ..down.b import g\n", "down/__init__.py": ""}
    clean = arrows(write(tmp_path, files | {"down/b.py": "import json\n"}))
    assert circles((a.source, a.target) for a in clean) == []
    assert against(clean, floors(TWO_FLOORS)) == []
    bad = arrows(write(tmp_path, files | {"down/b.py": way_back}))
    assert circles((a.source, a.target) for a in bad) == [["avflow.down.b", "avflow.up.a"]]
    (wrong,) = against(bad, floors(TWO_FLOORS))
    assert (wrong.source, wrong.target) == ("avflow.down.b", "avflow.up.a")


def test_a_circle_of_three_within_one_room_is_found(tmp_path):
    ring = {f"up/{a}.py": f"from .{b} import x\n" for a, b in [("a", "b"), ("b", "c"), ("c", "a")]}
    found = arrows(write(tmp_path, {"__init__.py": "", "up/__init__.py": "", "up/d.py": "from . import a\n"} | ring))
    assert circles((a.source, a.target) for a in found) == [["avflow.up.a", "avflow.up.b", "avflow.up.c"]]


def test_rooms_of_one_floor_do_not_import_each_other(tmp_path):
    found = arrows(write(tmp_path, {"__init__.py": "", "up/__init__.py": "import avflow\n"}))
    assert [str(a) for a in against(found, floors(TWO_FLOORS))] == ["avflow.up (line 1) imports avflow"]


def test_scripts_find_their_neighbours_by_bare_name(tmp_path):
    (tmp_path / "scripts").mkdir()
    for a, b in pairwise("aba"):
        (tmp_path / f"scripts/{a}.py").write_text(f"from {b} import x\n")
    found = arrows(modules(tmp_path / "scripts"))
    assert circles((a.source, a.target) for a in found) == [["scripts.a", "scripts.b"]]
