"""What is said twice agrees: versions of the package, and of the tools that check the code."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import yaml

import avflow
import avflow_ext

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_citation_and_changelog_know_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == avflow.__version__
    assert citation["license"] in PYPROJECT
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    versions = re.findall(
        r"^## (\S+) - (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert avflow.__version__.partition(".dev")[0] in dict(versions)
    assert [number for number, when in versions if when == "unreleased"] in ([], [versions[0][0]])


def test_one_place_says_the_version():
    """python/avflow/__init__.py: setup.py reads it, and compiles it into the module."""
    assert avflow_ext.__version__ == avflow.__version__ == importlib.metadata.version("avflow")
    assert "version" in re.search(r"^dynamic = \[(.*)\]", PYPROJECT, re.MULTILINE).group(1)
    assert not re.search(r"^version = ", PYPROJECT, re.MULTILINE)


def hooks() -> list[dict]:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    return repository["hooks"]


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_a_hook_has_the_tool_of_the_dev_extra(hook):
    dev = PYPROJECT.split("\ndev = [")[1].split("\n]")[0]
    for tool in hook.get("additional_dependencies", []):
        assert f'"{tool}"' in dev


def test_the_hooks_run_the_tools_of_make_lint():
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    tools = {match.split("/")[-1] for match in re.findall(r"\$\(BIN\)/(\S+)", recipe)}
    assert {hook["entry"].split()[0].split("/")[-1] for hook in hooks()} == tools
