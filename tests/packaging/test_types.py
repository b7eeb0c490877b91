"""What a type checker sees of avflow: the markers, and a stub that agrees with the compiled module."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avflow_ext._load import _C

ROOT = Path(__file__).resolve().parents[2]


def public(names) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def stub() -> dict[str, ast.stmt]:
    """The names that avflow_ext/_C.pyi defines, without those it imports."""
    found = {}
    for statement in ast.parse((ROOT / "avflow_ext/_C.pyi").read_text()).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            found[statement.name] = statement
        elif isinstance(statement, ast.AnnAssign):
            found[statement.target.id] = statement
    return found


def signature(function: ast.FunctionDef) -> list[tuple[str, str | None]]:
    """Parameters and their defaults, without self."""
    names = [argument.arg for argument in function.args.args]
    values = [ast.unparse(value) for value in function.args.defaults]
    pairs = list(zip(names, [None] * (len(names) - len(values)) + values, strict=True))
    return [pair for pair in pairs if pair[0] != "self"]


def compiled_signature(function) -> list[tuple[str, str | None]]:
    """The same of a compiled function: pybind11 writes it in the first line of the docstring."""
    return signature(ast.parse(f"def {function.__doc__.splitlines()[0]}: ...").body[0])


def test_the_packages_say_that_they_are_typed():
    assert (ROOT / "avflow_ext/py.typed").is_file() and (ROOT / "python/avflow/py.typed").is_file()


def test_the_stub_has_every_public_name_of_the_module_and_no_other():
    assert public(stub()) == public(dir(_C))


@pytest.mark.parametrize("name", sorted(public(dir(_C))))
def test_the_stub_has_the_parameters_of_the_module(name):
    typed, compiled = stub()[name], getattr(_C, name)
    if isinstance(typed, ast.AnnAssign):
        assert type(compiled).__name__ == ast.unparse(typed.annotation)
    elif isinstance(typed, ast.ClassDef):
        methods = {method.name: method for method in typed.body if isinstance(method, ast.FunctionDef)}
        assert public(methods) == public(dir(compiled))
        assert signature(methods["__init__"]) == compiled_signature(compiled.__init__)
    else:
        assert signature(typed) == compiled_signature(compiled)


def test_what_the_module_says_of_cuda_has_the_fields_of_the_stub():
    fields = {field.target.id for field in stub()["_CudaBuild"].body if isinstance(field, ast.AnnAssign)}
    source = (ROOT / "csrc/python/module.cpp").read_text()
    assert all(f'found["{field}"] = ' in source for field in fields)
    if (built := _C.cuda()) is not None:
        assert set(built) == fields


USER = """
import avflow_ext
from avflow_ext import AttentionProblem, Cut, Streams, Tokens

tokens = Tokens(range(3), [0, 0, 1])
reveal_type(tokens.item)
problem = AttentionProblem(tokens, streams=Streams(), cuts=[Cut(1, 2, scope="other_items")], keep_keys=[0, 2])
reveal_type(problem.packed(4, "zero"))
reveal_type(avflow_ext.capabilities()["cuda"])
Cut(1, 2, scope="other items")  # line 10
problem.packed(4, "none")  # line 11
Tokens("abc")  # line 12
"""


@pytest.mark.slow
def test_a_users_checker_sees_the_types(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "user.py"
    script.write_text(USER)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path / "cache"), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(ROOT)})
    notes = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert notes[:2] == ["torch._tensor.Tensor"] * 2, done.stdout + done.stderr
    assert "avflow_ext.device.CudaCapabilities" in notes[2] and notes[2].endswith("| None"), notes[2]
    assert {int(line) for line in re.findall(r"user\.py:(\d+): error", done.stdout)} == {10, 11, 12}, done.stdout
