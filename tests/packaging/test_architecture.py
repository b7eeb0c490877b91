"""docs/architecture.md: the steps of its four ways name functions that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
STEPS = re.findall(r"^(\d+)\. `([\w/]+\.\w+)` → (`\w+`(?:, `\w+`)*)[:;]", PAGE, re.MULTILINE)


def test_every_numbered_line_is_a_step():
    assert len(STEPS) == len(re.findall(r"^\d+\. ", PAGE, re.MULTILINE)) > 40


@pytest.mark.parametrize("number, path, names", STEPS, ids=lambda value: value.strip("`"))
def test_a_step_names_what_is_there(number, path, names):
    file = ROOT / ("" if path.startswith(("avflow_ext/", "csrc/")) else "python/avflow") / path
    assert file.is_file()
    defined = r"^(?:def|class) {0}\b|^[\w:<>, *]+ {0}\(" if file.suffix != ".py" else r"^(?:def|class) {0}\b"
    for name in re.findall(r"\w+", names):
        assert re.search(defined.format(name), file.read_text(), re.MULTILINE), f"{path} defines no {name}"
