"""Lists the benchmarks, or runs one, from whatever folder:

    python benchmarks                        one line for each
    python benchmarks cpu/sweep [OPTION ...]

A benchmark's name is its path in this folder. They are modules of the package `benchmarks`, not scripts: a script's own
folder comes first on the path of modules, where cuda/ would hide Python's `profile`.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOMS = ("cpu", "cuda", "op", "findings", "pages")


def names() -> dict[str, str]:
    """{name of a benchmark: the first sentence of its docstring}"""
    found = {}
    for room in ROOMS:
        for path in sorted((HERE / room).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in tree.body):
                found[f"{room}/{path.stem}"] = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return found


def main(arguments: list[str]) -> int:
    """Exit status: 2 for a name that is not there, else the benchmark's own."""
    found = names()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        for name, sentence in found.items():
            print(f"  {name:16} {sentence}")
        return 0
    name, *options = arguments
    if name not in found:
        print(f"no benchmark {name!r}; there are {', '.join(found)}", file=sys.stderr)
        return 2
    sys.argv = [f"benchmarks {name}", *options]  # for the usage line
    return importlib.import_module(f"benchmarks.{name.replace('/', '.')}").main(options) or 0


if __name__ == "__main__":
    if not __package__:  # run as a folder, which Python then looks in for modules: its parent takes that place
        sys.path[0] = str(HERE.parent)
        importlib.import_module("benchmarks")
        del sys.path[0]  # avflow comes from where it is installed
    sys.exit(main(sys.argv[1:]))
