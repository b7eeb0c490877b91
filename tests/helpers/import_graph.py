"""Which module imports which: read from the source, imports within functions and under TYPE_CHECKING too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arrow:
    """One import: the module `source`, at `line` of its file, takes something from the module `target`."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source} (line {self.line}) imports {self.target}"


def modules(folder: Path) -> dict[str, Path]:
    """Dotted name -> file of every module in a package folder; a package itself is its __init__.py."""
    found = {}
    for path in sorted([*folder.rglob("*.so"), *folder.rglob("*.py")]):
        parts = [*path.relative_to(folder.parent).parts[:-1], path.name.split(".")[0]]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(files: Mapping[str, Path]) -> list[Arrow]:
    """Every import among these modules. Not seen: names that are put together at run time (importlib)."""
    return [
        Arrow(name, target, line)
        for name, path in files.items()
        if path.suffix == ".py"  # a compiled module imports nothing
        for target, line in sorted(set(_targets(name, path, files)))
        if target != name
    ]


def named(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """Whatever dotted names a module imports, resolved, whether there is a module of that name or not."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def _base(node: ast.ImportFrom, package: list[str]) -> str:
    base = node.module or ""
    return ".".join([*package[: len(package) + 1 - node.level], *([base] if base else [])]) if node.level else base


def _targets(name: str, path: Path, files: Mapping[str, Path]) -> Iterator[tuple[str, int]]:
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from ((found, node.lineno) for found in _find(alias.name, package, files))
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            for alias in node.names:  # `from package import module` is an arrow to the module
                found = list(_find(f"{base}.{alias.name}", package, files)) or _find(base, package, files)
                yield from ((one, node.lineno) for one in found)


def _find(wanted: str, package: list[str], files: Mapping[str, Path]) -> Iterator[str]:
    """The module of a name; scripts also find their neighbours by bare name, since their folder is on sys.path."""
    for depth in range(len(package) + 1):
        if (name := ".".join([*package[:depth], wanted])) in files:
            yield name
            return


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that can all reach each other, each sorted; a name that points to itself is none."""
    after: dict[str, set[str]] = {}
    for source, target in edges:
        after.setdefault(source, set()).add(target)
        after.setdefault(target, set())

    def reach(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            new = after[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reached = {name: reach(name) for name in after}
    found = {tuple(sorted({name, *(n for n in there if name in reached[n])})) for name, there in reached.items()}
    return sorted(list(group) for group in found if len(group) > 1)


def floors(page: str) -> dict[str, int]:
    """Room -> floor, from the table between the marks `<!-- floors -->`; 1 is the top.

    A row is `| floor | rooms |`: the rooms are the names in backquotes of its second column.
    """
    table = page.split("<!-- floors -->")[1].split("<!-- /floors -->")[0]
    rows = re.findall(r"^\| *(\d+) *\|([^|]*)\|", table, re.MULTILINE)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`([^`]+)`", rooms)}


def room_of(module: str) -> str:
    """The part of the house that a module is in: avflow's package or single file, else the top package."""
    parts = module.split(".")
    return parts[1] if parts[0] == "avflow" and len(parts) > 1 else parts[0]


def against(found: Iterable[Arrow], floor: Mapping[str, int]) -> list[Arrow]:
    """The arrows between rooms that do not lead to a lower floor."""
    return [
        arrow
        for arrow in found
        if (source := room_of(arrow.source)) != (target := room_of(arrow.target)) and floor[source] >= floor[target]
    ]
