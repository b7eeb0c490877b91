"""The documentation: it builds without a warning, names every public name, and its paths and links lead somewhere."""

import importlib
import inspect
import re
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("avflow-models/**/*.md")])
PUBLIC = (
    "avflow",
    "avflow.data",
    "avflow.media",
    "avflow.models",
    "avflow.plots",
    "avflow.results",
    "avflow.synthetic",
    "avflow_ext",
)


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> set[str]:
    """The names that the built site describes."""
    pytest.importorskip("sphinx", reason="the site is built by sphinx: pip install 'avflow[docs]'")
    site = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", str(ROOT / "docs")]
    done = subprocess.run([*build, str(site)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]  # after four lines of text
    return set(re.findall(r"^(\S+) py:", zlib.decompress(inventory).decode(), re.MULTILINE))


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_names_every_public_name(described, module):
    import avflow

    found = importlib.import_module(module)
    exported = {id(getattr(avflow, name)): name for name in avflow.__all__}
    absent = [
        name
        for name in found.__all__
        if f"{module}.{name}" not in described
        and f"avflow.{exported.get(id(getattr(found, name)), '?')}" not in described
    ]
    assert absent == [], f"name them in docs/api/, or give them a docstring: {absent}"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_function_and_class_has_a_docstring(module):
    found = importlib.import_module(module)
    objects = {name: getattr(found, name) for name in found.__all__}
    told = {n: o.__doc__ or "" for n, o in objects.items() if inspect.isclass(o) or inspect.isroutine(o)}
    bare = [
        name for name, text in told.items() if not text or text.startswith(f"{name}(")
    ]  # a dataclass writes its own
    assert bare == []


# --- paths and links ------------------------------------------------------------------------------------------------

PATH = re.compile(r"(?<![\w/<{.-])((?:\w[\w.-]*/)+[\w.-]+\.(?:py|cpp|h|cuh?|sh|js|css|md|ya?ml))\b")
ROOTS = [ROOT / folder for folder in ("", "python", "python/avflow", "csrc", "docs")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    """Paths count from the root of the repository, or from where they are told of: `walk/walk.py`, `core/plan.cpp`."""
    paths = set(PATH.findall(page.read_text()))
    assert sorted(path for path in paths if not any((root / path).exists() for root in ROOTS)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_names_of_a_page_exist(page):
    """Names such as `avflow.data.read`, none of them on its way out."""
    if page.name == "CHANGELOG.md":
        pytest.skip("it names what went")
    names = set(re.findall(r"(?<![\w/.@:-])avflow(?:_ext)?(?:\.[A-Za-z_]\w*)+(?![\w/-])", page.read_text()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert [name for name in sorted(names) if not exists(name)] == []


def exists(name: str) -> bool:
    found = importlib.import_module(name.split(".")[0])
    for number, part in enumerate(name.split(".")[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(name.split(".")[:number]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page):
    targets = {
        target for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", re.sub(r"`[^`\n]*`", "", page.read_text()))
    }
    assert sorted(target for target in targets if not (page.parent / target).exists()) == []
