"""Numbers of pages and figures as people read them: a true minus, three significant digits at most."""

import re
import sys
from pathlib import Path

import demo_folder
import page_cases as cases
import pytest
from matplotlib.text import Text

import avflow
from avflow import plots
from avflow.demo.sample_view import answers, sample_view
from avflow.report.comparison import compare, compare_path, read_runs
from avflow.report.numbers import interval, p_text, plain, short, signed
from avflow.report.samples import write_sample_views
from avflow.report.write import report_together
from avflow.results.table import read_parquet
from avflow.runtime.generating import Generated

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from browser import find, window  # noqa: E402

HYPHEN = re.compile(r"(?<![\w-])-\s?[0-9.]")  # an ASCII minus before a number; "color-3" is a name
# A number of more than three significant digits; counts and layers are whole.
LONG = re.compile(r"(?<![\w.,])(?!0\.0*[1-9]\d{0,2}(?!\d))(?=[\d.]*[1-9])(?=(?:[.]?\d){4})\d+\.\d+")


def test_three_digits_and_a_true_minus():
    assert [plain(v) for v in (12.34, -0.04, 0.0, -99.96, 1666.13, 486223.0)] == [
        "12.3",
        "0.0",
        "0.0",
        "−100",
        "1,670",
        "486,000",
    ]
    assert [plain(5.05e42), signed(5e41), signed(-1e300)] == ["5.05e42", "+5.00e41", "−1.00e300"]
    assert [signed(v) for v in (12.34, -1.25, 0.04, -0.04)] == ["+12.3", "−1.2", "0.0", "0.0"]
    assert [short(v) for v in (2.6e-12, -1e-300, 1e-6)] == ["2.6e−12", "−1e−300", "0.000001"]
    assert [short(v) for v in (0.4553, -0.0000048, 0.0, 12345.6, -12.34)] == [
        "0.455",
        "−0.0000048",
        "0",
        "12,300",
        "−12.3",
    ]
    assert interval(-1.0, 2.0) == "−1.0 … +2.0" and interval(None, None) == "–"
    assert [p_text(p) for p in (None, 0.0001, 0.0123, 0.9999)] == ["–", "< 0.001", "0.012", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    runs = [cases.sweep(folder / "run"), cases.sweep(folder / "second", 4)]
    looks = [getattr(cases, name)(folder / name) for name in ("share", "lens", "plan", "patch", "tokens", "shift")]
    (prompt,) = [demo_folder.model().prepare(s) for s in avflow.Sample.read_jsonl(demo_folder.demo()["samples"])[:1]]
    entry = sample_view(prompt, demo_folder.model()) | {"id": "color-3"}  # as if the sweep had been over it
    entry["answers"] = answers(Generated("red", [1], 1.2345, 0.0, 1234567), Generated("red", [1], 0.1234, 0.0, 60))
    write_sample_views(folder / "shown", [entry], {"video": 3})
    page = report_together([*runs, *looks, folder / "shown"], folder / "page")
    return runs, looks, [page, compare(runs, folder / "out")[-1]]


def test_no_page_has_an_ascii_minus_or_a_long_number(made):
    pytest.importorskip("playwright", reason="no playwright: pip install 'avflow[test]'")
    if find() is None:
        pytest.skip("no chromium on PATH, and AVFLOW_CHROMIUM names none")
    with window(1200, 900) as browser:
        for path in made[2]:
            browser.open(path)
            browser.page.evaluate("location.hash = '#sample=color-3'")
            browser.page.evaluate(SHOWN)
            words = browser.page.evaluate(WORDS)
            assert len(words) > 100 and any("−" in text for text in words)
            assert [text for text in words if HYPHEN.search(text)] == []
            assert [text for text in words if LONG.search(text)] == []


# Every box of values, by key; all that is folded. What is told by the arrow keys stays in the boxes.
SHOWN = """() => { document.querySelectorAll('details').forEach((fold) => { fold.open = true; });
  for (const svg of document.querySelectorAll('svg[tabindex]'))
    for (let i = 0; i < 4; i += 1) svg.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' })); }"""
WORDS = """() => { const out = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode;
    if (!text.parentElement.closest('script, style, .settings') && text.data.trim()) out.push(text.data.trim());
  }
  return out; }"""


def test_no_figure_has_an_ascii_minus(made):
    runs, looks, _ = made
    sweep, (share, lens, plan, patch, tokens, shift) = avflow.read(runs[0]), looks
    drawn = [plots.flow(sweep), plots.flow_panels(sweep), plots.heat_map(sweep), plots.widths(sweep, cases.PATHS[1])]
    drawn += [plots.share_bars(avflow.read(share)), plots.lens_lines(avflow.read(lens)), plots.flow(avflow.read(patch))]
    drawn += [plots.word_lines(avflow.read(tokens)), plots.shift_lines(avflow.read(shift))]
    drawn += [plots.eviction_lines(read_parquet(plan / "plan.parquet")), compare_path(read_runs(runs), cases.PATHS[1])]
    minus = 0
    for figure, _ in drawn:
        figure.canvas.draw()
        words = [text.get_text() for text in figure.findobj(Text) if text.get_text()]
        assert words and [text for text in words if HYPHEN.search(text)] == []
        minus += sum("−" in text for text in words)
    assert minus > 5
