"""README.md on PyPI: nothing relative is left, and nothing else has changed."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from pypi_page import PAPERS, page, urls  # noqa: E402

README = (ROOT / "README.md").read_text()
URL = "https://example.org/avflow/blob/v1"
TARGET = re.compile(r"\]\(([^)]+)\)")


def test_links_and_pictures_lead_to_the_repository():
    before, after = TARGET.findall(README), TARGET.findall(page(README, URL))
    assert len(before) > 20
    wanted = [name if ":" in name or name.startswith("#") else f"{URL}/{name}" for name in before]
    assert [target.removesuffix("?raw=true") for target in after] == wanted
    assert [target for target in after if target.endswith("?raw=true")] == [f"{URL}/docs/flow.png?raw=true"]
    assert TARGET.sub("", page(README, URL)) == TARGET.sub("", README)


def test_without_an_address_the_words_stay():
    text = page("See [the docs](docs/a.md#b), [PyPI](https://pypi.org), [here](#here).\n![A picture](docs/flow.png)\n")
    assert text == "See the docs, [PyPI](https://pypi.org), [here](#here).\n\n"
    assert all(":" in target or target.startswith("#") for target in TARGET.findall(page(README)))


def test_notebooks_open_in_colab():
    text = page(README, "https://github.com/someone/avflow/blob/v0.2.0")
    assert "](https://colab.research.google.com/github/someone/avflow/blob/v0.2.0/notebooks/tutorial.ipynb)" in text
    assert "](https://github.com/someone/avflow/blob/v0.2.0/docs/tutorial.md)" in text
    assert f"({URL}/notebooks/tutorial.ipynb)" in page(README, URL)  # Colab reads from GitHub alone


def test_the_projects_urls():
    assert urls() == PAPERS
    found = urls("https://github.com/someone/avflow/blob/v0.2.0/")
    assert found["Source"] == "https://github.com/someone/avflow" and found["Issues"].endswith("/avflow/issues")
    assert found["Changelog"] == "https://github.com/someone/avflow/blob/v0.2.0/CHANGELOG.md"
