"""The page in a real browser: it draws without an error, asks for nothing, and its controls do what they say."""

import csv
import io
import re
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import demo_folder
import many_samples
import page_cases as cases
import pyarrow.compute as pc
import pytest
from PIL import Image

import avflow
from avflow.demo.sample_view import answers, sample_view
from avflow.report.samples import write_sample_views
from avflow.report.view import View, address, server
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
    for entry, name in zip(entries, ("color-3", "pitch-4"), strict=True):  # as if the sweep had been over them
        entry["id"] = name
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


def paths_of(browser, place):
    """The paths that have a line there."""
    return browser.page.evaluate(f"[...document.querySelectorAll('{place} .series')].map((e) => e.dataset.path)")


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
    # One path has an effect; the others are one band in each of the three panels.
    assert paths_of(opened, "#flow") == ["video->question"] and len(texts(opened, "#flow .quiet-band")) == 3
    for place in ("story", "heat", "share", "lens", "plan-accuracy", "plan-p", "schedule", "compare"):
        box = opened.page.evaluate(
            f"(() => {{ const b = document.querySelector('#{place} svg').getBBox(); return b.width * b.height; }})()"
        )
        assert box > 10_000, place
    opened.page.evaluate("location.hash = '#sample=color-3'")
    opened.page.wait_for_selector("#sample .strip img")
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
    form = [f"{v:+.1f}".replace("-", "−") for v in want[:3]]
    # Panel 2 (into the question); layers 0 to 5, the pointer a little right of layer 3.
    told = hover(opened, "#flow section:nth-child(2) svg", 0.66)
    assert "Layer 3, 12 samples" in told and form[0] in told and f"{form[1]} … {form[2]}" in told
    places = opened.page.evaluate("document.querySelector('#heat svg').getBoundingClientRect().width")
    left = 14 + 6.6 * len("audio → question")
    told = hover(opened, "#heat svg", (left + (places - left) * 3.5 / 6) / places, 0.3)
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
    assert texts(opened, "#flow .quiet summary") == [
        f"{n} path{'s' if n > 1 else ''} without effect (within ±0.1 %)" for n in (1, 1, 3)
    ]
    opened.page.evaluate("document.querySelectorAll('#flow .quiet').forEach((e) => { e.open = true; })")
    opened.page.evaluate("document.querySelector('#flow input[data-path=\"video->last\"]').focus()")
    opened.page.keyboard.press(" ")  # one that does nothing is drawn when it is asked for
    assert paths_of(opened, "#flow") == ["video->question", "video->last"]
    assert opened.page.evaluate("document.activeElement.dataset.path") == "video->last"  # the focus stays
    opened.page.keyboard.press(" ")
    assert paths_of(opened, "#flow") == ["video->question"] and "video → last" in texts(opened, "#heat text")
    opened.page.evaluate("document.querySelector('#flow input[data-path=\"video->question\"]').focus()")
    opened.page.keyboard.press(" ")
    assert paths_of(opened, "#flow") == [] and "video → question" not in texts(opened, "#heat text")
    opened.page.keyboard.press(" ")
    assert paths_of(opened, "#flow") == ["video->question"] and "video → question" in texts(opened, "#heat text")


def test_layers_count_from_one_when_asked(opened):
    opened.page.evaluate("document.querySelectorAll('.told').forEach((e) => { e.open = true; })")
    visible = (
        "[...document.querySelectorAll('.words li')].filter((e) => e.offsetParent).map((e) => e.textContent).join(' ')"
    )
    assert "at layer 3" in opened.page.evaluate(visible) and "0" in texts(opened, "#heat text")
    choose(opened, "base", 1)
    assert "at layer 4" in opened.page.evaluate(visible) and "at layer 3" not in opened.page.evaluate(visible)
    ticks = '#flow section:first-child [data-part="x-axis tick label"] text'
    assert texts(opened, ticks) == list("123456")
    assert opened.page.evaluate("document.querySelector('.headline.from-1').offsetParent !== null")
    assert "leaves after 4" in texts(opened, "#schedule text") and "Layer 4" in hover(opened, "#lens svg", 0.62)


def test_runs_are_chosen_and_compared(opened):
    assert opened.page.evaluate("document.querySelectorAll('#compare .series').length") == 2
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
    lines, table = "#flow input", "#numbers td"
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


def test_the_address_chooses_the_sample(opened, report):
    opened.page.goto(f"{report.as_uri()}#sample=pitch-4")
    opened.page.reload()
    opened.requests[:] = opened.requests[:1]
    assert texts(opened, "#sample-list a[aria-current] .soft")[0].startswith("pitch-4")
    before = texts(opened, "#sample .question")
    opened.page.fill("#sample-search", "color-3")
    assert texts(opened, "#sample-count") == ["1 sample"]
    opened.page.click("#sample-list a")
    assert opened.page.evaluate("location.hash") == "#sample=color-3" and texts(opened, "#sample .question") != before
    assert "the same" in " ".join(texts(opened, "#sample .answers td"))
    assert re.search(r"tokens? \d+", hover(opened, "#sample svg[aria-label^=Token]", 0.3, 0.2))
    opened.page.go_back()
    opened.page.wait_for_function("document.querySelector('#sample .question').textContent !== ''")
    assert opened.page.evaluate("location.hash") == "#sample=pitch-4"
    opened.page.evaluate("document.querySelector('#sample-search').value = ''")


def test_samples_are_sorted_by_effect_and_have_their_own_curves(opened, folder):
    opened.page.evaluate("location.hash = ''")
    table = read(folder / "run").table.to_pylist()
    strongest = max(table, key=lambda r: abs(r["change_percent"]))
    first = texts(opened, "#sample-list a")[0]
    assert strongest["prompt"] in first and f"{strongest['change_percent']:.1f} %".replace("-", "−") in first
    sizes = [float(t[1:-2]) for t in texts(opened, "#sample-list em")]
    assert len(sizes) == 24 and sizes == sorted(sizes, reverse=True)
    opened.page.evaluate("document.querySelector('#sample-list a').click()")
    opened.page.wait_for_function("location.hash.length > 1")
    assert paths_of(opened, "#sample") == ["video->question"]
    choose(opened, "task", "pitch")
    assert len(texts(opened, "#sample-list a")) == 12 and paths_of(opened, "#sample") == []
    assert "No path changes this answer" in " ".join(texts(opened, "#sample p"))
    choose(opened, "run", 1)
    choose(opened, "task", "")
    assert len(texts(opened, "#sample-list a")) == 8


def saved(browser, name, kind):
    with browser.page.expect_download() as found:
        browser.page.click(f"[data-save='{name}'] button:has-text('{kind}')")
    return Path(found.value.path()).read_text("utf-8"), found.value.suggested_filename


def test_numbers_and_charts_are_saved_as_files(browser, report, folder):
    browser.open(report)
    text, name = saved(browser, "flow", "CSV")
    rows = list(csv.DictReader(io.StringIO(text)))
    table = read(folder / "run").table
    want = cases.numbers_of(mean_change(table))
    got = {(r["path"], int(r["layer"])): float(r["mean"]) for r in rows if r["task"] == "all"}
    assert name == "flow.csv" and got == {key: value[0] for key, value in want.items()}
    for chart, marks in (("flow", 3), ("heat", 1), ("story", 1)):
        text, name = saved(browser, chart, "SVG")
        drawn = ElementTree.fromstring(text)  # a whole file, whose colours are its own
        assert name == f"{chart}.svg" and len(drawn.findall("{http://www.w3.org/2000/svg}svg")) == marks
        assert "var(" not in text and "rgb(0, 114, 178)" in text or chart == "heat"


@pytest.fixture(scope="module")
def phone(browser, report):
    context = browser.page.context.browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    found = Window(context.new_page())
    found.open(report)
    yield found
    context.close()


def test_a_tap_shows_the_values_and_they_stay(phone):
    phone.page.evaluate("document.querySelector('#story svg').scrollIntoView({ block: 'center' })")
    box = phone.page.query_selector("#story svg").bounding_box()
    phone.page.touchscreen.tap(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    phone.page.wait_for_timeout(100)
    assert "video → question" in " ".join(texts(phone, "#story .tip:not([hidden])"))
    tip = phone.page.query_selector("#story .tip").bounding_box()
    assert tip["x"] >= 0 and tip["x"] + tip["width"] <= 390
    inside = "[...document.querySelectorAll('#story .tip td')].map((e) => e.getBoundingClientRect().right)"
    assert max(phone.page.evaluate(inside)) <= tip["x"] + tip["width"]
    phone.page.touchscreen.tap(200, 5)
    phone.page.wait_for_timeout(50)
    assert texts(phone, "#story .tip:not([hidden])") == []


def test_a_phone_reads_every_chart(phone):
    assert phone.console == [] and phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = phone.page.evaluate(
        """[...document.querySelectorAll('.chart > svg')].map((svg) => [svg.getAttribute('aria-label'),
            svg.getBoundingClientRect().width / svg.viewBox.baseVal.width])"""
    )
    assert sizes and all(0.99 < factor < 1.01 for _, factor in sizes), sizes  # text is as large as it says: 12 pixels
    bars = phone.page.evaluate(
        "[...document.querySelectorAll('#schedule rect')].map((e) => e.getBoundingClientRect().width)"
    )
    assert max(bars) > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_rule_is_broken(opened, scheme):
    axe = pytest.importorskip("axe_playwright_python", reason="no axe-core: pip install 'avflow[test]'")
    opened.page.emulate_media(color_scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    opened.page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = opened.page.evaluate("axe.run(document)")
    assert len(found["passes"]) > 20
    assert [(v["id"], [n["html"][:150] for n in v["nodes"]][:3]) for v in found["violations"]] == []


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
    # What is folded is open, and the run that is not chosen is there too.
    assert opened.page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    assert texts(opened, "#other-runs > h3") == ["second: all tasks, 8 samples"]
    assert len(texts(opened, "#other-runs .chart > svg")) == 3
    pdf = opened.page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 9


def test_a_run_over_200_samples_opens_at_once(browser):
    browser.page.emulate_media(color_scheme="light", media="screen")  # a test before may have printed
    page, took = many_samples.page(), []
    for _ in range(3):  # the machine may be at something else
        begun = time.monotonic()
        browser.open(page)
        took.append(time.monotonic() - begun)
    assert len(texts(browser, "#sample-list a")) == 200 and texts(browser, "#sample h3")
    assert min(took) < 2, took


def test_a_served_page_gets_its_samples_one_by_one(browser, tmp_path):
    browser.page.emulate_media(color_scheme="light", media="screen")  # a test before may have printed
    folder = many_samples.folder_of(tmp_path / "run", samples=6, layers=4, paths=2)
    browser.console.clear()
    browser.requests.clear()
    with server(View([folder])) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        try:
            browser.page.goto(f"{address(serving)}#sample=sample-0004")
            browser.page.wait_for_selector("#sample svg")
            assert texts(browser, "#sample .question") == ["What is seen in clip 4?"]
            assert browser.requests == [address(serving), f"{address(serving)}sample/0/4.json"]
            browser.page.click("#sample-list a[href$='0002']")
            browser.page.wait_for_selector(
                "#sample .question:text-is('What is seen in clip 2?')"
            )  # no eval: the page forbids it
            assert len(texts(browser, "#sample .chart > svg")) == 2 and len(browser.requests) == 3
        finally:
            serving.shutdown()
            thread.join()
    assert browser.console == []


def test_errors_and_requests_of_a_page_are_noticed(browser, tmp_path):
    """What the other tests find to be empty is not empty by itself."""
    (tmp_path / "bad.html").write_text("<img src='none.png'><script>console.error('one'); throw Error('two')</script>")
    bad = Window(browser.page.context.browser.new_page())
    bad.open(tmp_path / "bad.html")
    assert {"one", "two"} <= set(bad.console) and any(r.endswith("none.png") for r in bad.requests)
    bad.page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_box_of_a_token_stays_within_the_window(browser, tmp_path, width):
    """However long its text, and without a space in it; first and last block, and one in the middle."""
    browser.page.emulate_media(color_scheme="light", media="screen")
    folder = many_samples.folder_of(tmp_path / "run", samples=2, layers=4, paths=2)
    stretches = [
        ["video", 0, 0, 200, "w" * 300],
        ["question_text", -1, 200, 300, "a word " * 60],
        ["last", -1, 500, 241, "x" * 300],
    ]
    told = many_samples.told(0) | {"tokens": {"count": 741, "stretches": stretches}}
    (folder / many_samples.FILE).write_text(many_samples.line_of("sample-0000", told) + "\n")
    page = report_together([folder], tmp_path / "page", media=False)
    before = browser.page.viewport_size
    browser.page.set_viewport_size({"width": width, "height": 900})
    try:
        browser.open(page)
        browser.page.evaluate("location.hash = '#sample=sample-0000'")
        browser.page.wait_for_selector("#sample svg[aria-label='Token layout']")
        for at, down in ((0.02, 0.1), (0.5, 0.1), (0.98, 0.1), (0.02, 0.9), (0.5, 0.9)):
            assert hover(browser, '#sample svg[aria-label="Token layout"]', at, down)
            left, right, over, scroll = browser.page.evaluate(
                "(() => { const tip = document.querySelector('.tip:not([hidden])'), b = tip.getBoundingClientRect();"
                " return [b.left, b.right, tip.scrollWidth - tip.clientWidth, document.body.scrollWidth]; })()"
            )
            assert left >= 0 and right <= width and over <= 0 and scroll <= width, (at, down, left, right, over, scroll)
            assert right - left <= 36 * 16 + 30  # lines that can be read
    finally:
        browser.page.set_viewport_size(before)
