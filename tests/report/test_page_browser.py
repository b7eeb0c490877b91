"""The page in a real browser: it draws without an error, asks for nothing, and its controls do what they say."""

import io
import re
import sys
from pathlib import Path

import demo_folder
import page_cases as cases
import pyarrow.compute as pc
import pytest
from PIL import Image

import avflow
from avflow.demo.sample_view import answers, sample_view
from avflow.report.samples import write_sample_views
from avflow.report.write import report as report_of
from avflow.report.write import report_together
from avflow.results.change import mean_change
from avflow.results.results import read
from avflow.runtime.generating import Generated

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from browser import Window, find, window  # noqa: E402

pytest.importorskip("playwright", reason="no playwright: pip install 'avflow[test]'")
pytestmark = pytest.mark.skipif(find() is None, reason="no chromium on PATH, and AVFLOW_CHROMIUM names none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def report(folder):
    made = [cases.sweep(folder / "run"), cases.sweep(folder / "second", 4), cases.share(folder / "share")]
    made += [cases.lens(folder / "lens"), cases.plan(folder / "plan")]
    made += [cases.patch(folder / "patch"), cases.tokens(folder / "tokens"), cases.shift(folder / "shift")]
    model = demo_folder.model()
    prompts = [model.prepare(s) for s in avflow.Sample.read_jsonl(demo_folder.demo()["samples"])[:2]]
    entries = [sample_view(prompt, model) for prompt in prompts]
    entries[0]["answers"] = answers(Generated("red", [1], 0.2, 0.0, 100), Generated("red", [1], 0.1, 0.0, 60))
    write_sample_views(folder / "shown", entries, {"video": 3})
    return report_together([*made, folder / "shown"], folder)


@pytest.fixture(scope="module")
def browser():
    with window(1200, 900) as found:
        yield found


def test_patching_and_lenses_of_tokens_are_drawn(opened):
    counts = {
        name: opened.page.locator(f"#{name} svg.chart, #{name} .chart svg").count()
        for name in ("patch", "tokens", "shift")
    }
    assert counts == {"patch": 1, "tokens": 1, "shift": 2}
    chart = opened.page.locator("#patch .chart svg").first
    chart.focus()
    for _ in range(4):
        opened.page.keyboard.press("ArrowRight")
    text = opened.page.locator("#patch").inner_text()
    assert "Layer 3, 12 samples" in text and "option_correct" in text


@pytest.fixture
def opened(browser, report):
    browser.page.emulate_media(color_scheme="light", media="screen")
    browser.console.clear()
    browser.requests.clear()
    browser.open(report)
    yield browser
    assert browser.console == []
    assert all(r.startswith(("file:", "data:")) for r in browser.requests), browser.requests
    assert sum(r.startswith("file:") for r in browser.requests) == 1  # the page itself


def texts(browser, selector):
    return browser.page.evaluate(f"[...document.querySelectorAll('{selector}')].map((e) => e.textContent)")


def choose(browser, name, value):
    """Click the middle of a radio button, as a reader would."""
    box = f"""(() => {{ const e = document.querySelector('input[name="{name}"][value="{value}"]').parentNode;
        e.scrollIntoView({{ block: "center" }}); const b = e.getBoundingClientRect();
        return [b.x + b.width / 2, b.y + b.height / 2]; }})()"""
    browser.page.mouse.click(*browser.page.evaluate(box))


def hover(browser, selector, at=0.5, down=0.5):
    """Put the pointer over an element; the text of the box that appears."""
    box = browser.page.evaluate(
        f"""(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{ block: "center" }});
        const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})()"""
    )
    browser.page.mouse.move(box[0] + at * box[2], box[1] + down * box[3])
    return " ".join(texts(browser, ".tip:not([hidden])"))


def test_every_chart_is_drawn(opened):
    assert len(texts(opened, "#flow svg.none, #flow .chart svg")) == 3
    assert opened.page.evaluate("document.querySelectorAll('#flow polyline').length") == len(cases.PATHS)
    for place in ("heat", "share", "lens", "plan-accuracy", "plan-p", "schedule", "compare"):
        box = opened.page.evaluate(
            f"(() => {{ const b = document.querySelector('#{place} svg').getBBox(); return b.width * b.height; }})()"
        )
        assert box > 10_000, place
    assert opened.page.evaluate("document.querySelectorAll('#sample .strip img').length") == 8
    assert opened.page.evaluate(
        "[...document.querySelectorAll('#sample img')].every((i) => i.complete && i.naturalWidth > 50)"
    )
    assert not re.search(
        "NaN|undefined|Infinity",
        re.sub(r'src="data:[^"]*"', "", opened.page.evaluate("document.querySelector('main').innerHTML")),
    )


def test_hover_shows_the_numbers_of_the_table(opened, folder):
    choose(opened, "task", "color")
    table = read(folder / "run").table
    color = table.filter(pc.equal(table["task"], "color"))
    want = cases.numbers_of(mean_change(color))["video->question", 3]
    form = [f"{v:+.2f}".replace("-", "−") for v in want[:3]]
    # Panel 2 (into the question); layers 0 to 5, the pointer a little right of layer 3.
    told = hover(opened, "#flow section:nth-child(2) svg", 0.66)
    assert "Layer 3, 12 samples" in told and form[0] in told and f"{form[1]} … {form[2]}" in told
    places = opened.page.evaluate("document.querySelector('#heat svg').getBoundingClientRect().width")
    told = hover(opened, "#heat svg", (212 + (places - 212 - 96) * 3.5 / 6) / places, 0.3)
    assert "layer 3" in told and "mean change" in told
    assert form[0] in " ".join(texts(opened, "#numbers td"))


def test_arrow_keys_read_a_chart_too(opened):
    opened.page.evaluate("document.querySelector('#heat svg').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        opened.page.keyboard.press(key)
    assert texts(opened, "#heat .tip:not([hidden]) b") == ["video → question, layer 1"]
    opened.page.keyboard.press("Escape")
    assert texts(opened, "#heat .tip:not([hidden])") == []
    opened.page.evaluate("document.querySelector('#lens svg').focus()")
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowRight")
    assert texts(opened, "#lens .tip:not([hidden]) b") == ["Layer 1"]


def test_the_task_is_chosen_by_pointer_and_by_key(opened):
    assert texts(opened, "#flow-count") == ["all tasks, 24 samples"]
    choose(opened, "task", "pitch")
    assert texts(opened, "#flow-count") == ["pitch, 12 samples"]
    opened.page.keyboard.press("ArrowLeft")  # a group of radio buttons: arrows move in it
    assert texts(opened, "#flow-count") == ["color, 12 samples"]


def test_paths_are_hidden_and_shown_by_key(opened):
    lines = "document.querySelectorAll('#flow polyline').length"
    opened.page.evaluate("document.querySelector('#flow input[data-path=\"video->last\"]').focus()")
    opened.page.keyboard.press(" ")
    assert opened.page.evaluate(lines) == len(cases.PATHS) - 1 and "video → last" not in texts(opened, "#heat text")
    assert opened.page.evaluate("document.activeElement.dataset.path") == "video->last"  # the focus stays
    opened.page.keyboard.press(" ")
    assert opened.page.evaluate(lines) == len(cases.PATHS) and "video → last" in texts(opened, "#heat text")
    opened.page.evaluate("document.querySelectorAll('#flow input').forEach((e) => e.click())")
    assert opened.page.evaluate(lines) == 0 and "No path is shown" in " ".join(texts(opened, "#heat"))


def test_layers_count_from_one_when_asked(opened):
    visible = (
        "[...document.querySelectorAll('.words li')].filter((e) => e.offsetParent).map((e) => e.textContent).join(' ')"
    )
    assert "at layer 3" in opened.page.evaluate(visible) and "0" in texts(opened, "#heat text")
    choose(opened, "base", 1)
    assert "at layer 4" in opened.page.evaluate(visible) and "at layer 3" not in opened.page.evaluate(visible)
    assert "0" not in [t for t in texts(opened, "#flow text") if t.isdigit() and len(t) == 1][-6:]
    assert "leaves after 4" in texts(opened, "#schedule text") and "Layer 4" in hover(opened, "#lens svg", 0.62)


def test_runs_are_chosen_and_compared(opened):
    assert opened.page.evaluate("document.querySelectorAll('#compare polyline').length") == 2
    choose(opened, "run", 1)
    assert texts(opened, "#flow-count") == ["all tasks, 8 samples"]


def test_a_task_of_another_run_brings_that_run(browser, tmp_path):
    made = [cases.sweep(tmp_path / "clips"), cases.sweep(tmp_path / "items", 3, tasks=("find_image", "find_sound"))]
    browser.console.clear()
    browser.open(report_together(made, tmp_path))
    choose(browser, "task", "find_sound")
    assert texts(browser, "#flow-count") == ["find_sound, 3 samples"]
    assert browser.page.evaluate("document.querySelector('input[name=run]:checked').value") == "1"
    choose(browser, "task", "pitch")
    assert texts(browser, "#flow-count") == ["pitch, 12 samples"] and browser.console == []


def test_a_run_without_the_task_comes_back_with_the_next(browser, tmp_path):
    """A task that the chosen run lacks takes its charts away; whatever is chosen then brings them again."""
    made = [cases.sweep(tmp_path / "one", 3), cases.sweep(tmp_path / "two", 3, tasks=("color", "shape"))]
    browser.console.clear()
    browser.open(report_together(made, tmp_path))
    choose(browser, "task", "pitch")
    lines, table = "#flow polyline", "#numbers td"
    assert len(texts(browser, lines)) == len(cases.PATHS) and texts(browser, table)
    choose(browser, "run", 1)
    assert "No sample of pitch here." in texts(browser, "#flow p") and texts(browser, table) == []
    for name, value, count in (("run", 0, "pitch, 3 samples"), ("task", "shape", "shape, 3 samples")):
        choose(browser, name, value)
        assert texts(browser, "#flow-count") == [count]
        assert len(texts(browser, lines)) == len(cases.PATHS) and texts(browser, "#heat text") and texts(browser, table)
    assert browser.console == []


def test_a_very_long_task_does_not_widen_the_page(browser, tmp_path):
    made = cases.sweep(tmp_path / "run", 2, tasks=("x" * 20_000, "color"))
    files = report_of(made)
    browser.console.clear()
    browser.open(made / "report.html")
    assert browser.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    choose(browser, "task", "x" * 20_000)
    assert browser.page.evaluate("document.documentElement.scrollWidth <= innerWidth") and browser.console == []
    assert all(Image.open(path).width < 4000 for path in files if path.suffix == ".png")


def test_another_sample_is_shown(opened):
    before = texts(opened, "#sample .question")
    assert "the same" in " ".join(texts(opened, "#sample .answers td"))
    select = "const s = document.getElementById('sample-choice'); s.value = 1;"
    opened.page.evaluate(f"(() => {{ {select} s.dispatchEvent(new Event('change')); }})()")
    assert texts(opened, "#sample .question") != before
    assert re.search(r"tokens? \d+", hover(opened, "#sample .chart.keep:last-of-type svg", 0.3, 0.2))


def corner(browser):
    return Image.open(io.BytesIO(browser.page.screenshot())).convert("RGB").getpixel((4, 4))


def test_dark_by_the_system_and_by_the_switch(opened, report):
    assert corner(opened) == (255, 255, 255)
    opened.page.evaluate("document.getElementById('theme').click()")
    assert max(corner(opened)) < 40 and texts(opened, "#theme") == ["Light page"]
    opened.page.emulate_media(color_scheme="dark")
    opened.open(report)
    opened.requests.remove(report.as_uri())  # it was opened twice
    assert max(corner(opened)) < 40
    opened.page.evaluate("document.getElementById('theme').click()")
    assert corner(opened) == (255, 255, 255)


def test_print_is_light_without_controls(opened):
    opened.page.emulate_media(color_scheme="dark", media="print")
    assert corner(opened) == (255, 255, 255)
    controls = "[...document.querySelectorAll('.controls, button, select, .legend input')]"
    assert opened.page.evaluate(f"{controls}.filter((e) => e.offsetParent).length") == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    pdf = opened.page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 9


def test_nothing_runs_over_a_narrow_window(browser, report):
    narrow = Window(browser.page.context.browser.new_page(viewport={"width": 420, "height": 800}))
    narrow.open(report)
    assert narrow.console == [] and narrow.page.evaluate("document.documentElement.scrollWidth") <= 420
    narrow.page.close()


def test_errors_and_requests_of_a_page_are_noticed(browser, tmp_path):
    """What the other tests find to be empty is not empty by itself."""
    (tmp_path / "bad.html").write_text("<img src='none.png'><script>console.error('one'); throw Error('two')</script>")
    bad = Window(browser.page.context.browser.new_page())
    bad.open(tmp_path / "bad.html")
    assert {"one", "two"} <= set(bad.console) and any(r.endswith("none.png") for r in bad.requests)
    bad.page.close()
