"""The page: its numbers are the tables', its sentences say what they show, its HTML is whole and fetches nothing."""

import csv
import dataclasses
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import demo_folder
import numpy as np
import page_cases as cases
import pyarrow.compute as pc
import pytest
from result_rows import row

import avflow
from avflow.demo.sample_view import answers, sample_view
from avflow.errors import InputError
from avflow.report.collect import collect
from avflow.report.comparison import compare, compare_path, read_runs
from avflow.report.flow import flow_data, lines_of
from avflow.report.headline import headline, story
from avflow.report.html import embedded, page
from avflow.report.names import folder_names
from avflow.report.samples import read_sample_views, write_sample_views
from avflow.report.words import extent, flow_sentence, matters, patch_sentence, peak, summary
from avflow.report.write import report, report_together
from avflow.results.change import average_change, mean_change, significance
from avflow.results.results import Results, read
from avflow.results.table import table_from_rows
from avflow.runtime.generating import Generated


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs")
    made = [cases.sweep(where / "run"), cases.share(where / "share"), cases.lens(where / "lens")]
    return [*made, cases.plan(where / "plan")]


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_embedded_numbers_are_the_tables(folders, tmp_path):
    sweep = data_of(report_together(folders, tmp_path).read_text())["sweeps"][0]
    table = read(folders[0]).table
    assert [entry["task"] for entry in sweep["flow"]] == ["", "color", "pitch"]
    for entry in sweep["flow"]:
        rows = table if not entry["task"] else table.filter(pc.equal(table["task"], entry["task"]))
        want = cases.numbers_of(mean_change(rows))
        got = {(line["path"], p[0]): tuple(p[1:5]) for line in lines_of(entry) for p in line["points"]}
        assert got == want and len(got) == len(cases.PATHS) * cases.LAYERS
        assert (entry["right"], entry["known"]) == ((22, 24) if not entry["task"] else (11, 12))


def test_looks_and_plan(folders):
    found = collect(folders)
    video = next(g for g in found["share"][0]["groups"] if g["group"] == "video")
    assert video["values"] == pytest.approx([0.3] * cases.LAYERS, abs=1e-6)
    true = found["lens"][0]["lines"][0]
    assert true["label"] == "true option" and true["points"][5][1] == pytest.approx(0.3)
    line = found["plan"]["lines"][0]
    assert line["leaves"] == 3 and line["points"][3][1] == pytest.approx(0.9) and line["points"][0][1] < 0.9
    assert found["plan"]["schedule"] == {"video": 3, "audio": 3}


def test_sentences_name_the_effect_that_is_there_and_no_other(folders):
    found = collect(folders)
    parts = {part["title"]: part["lines"] for part in summary(found)}
    color, pitch = parts["Information flow"]
    assert "cutting video → question lowers" in color and "at layer 3" in color and "layers 2–4" in color
    assert re.search(r"by 50\.\d %|by 49\.\d %", color) and "then" not in color
    assert "no path out of audio mattered" in color and "no path out of video" not in color
    assert pitch.startswith("pitch (12 samples, 11 answered right): no path mattered") and "too few" not in pitch
    assert "leads from layer 4 on" in parts["Answer lens"][0]
    assert "video after layer 3, audio after layer 3 can leave" in parts["Eviction"][0].lower()
    found["plan"]["figures"]["until"] = 4
    rests = next(part for part in summary(found, base=1) if part["title"] == "Eviction")["lines"][0]
    assert "audio after layer 4 can rest until layer 5 with" in rests
    del found["plan"]["figures"]["until"]
    assert "31 %" in parts["Eviction"][1] and "40 %" in parts["Eviction"][1]
    assert "at layer 4" in summary(found, base=1)[0]["lines"][0]
    found["plan"]["schedule"] = {"video": -1, "audio": 3}
    for base in (0, 1):
        whole = " ".join(line for part in summary(found, base) for line in part["lines"]).lower()
        assert f"video before layer {base}, audio after layer {3 + base} can leave" in whole


def test_patching_and_the_lenses_of_tokens(tmp_path):
    made = [kind(tmp_path / kind.__name__) for kind in (cases.patch, cases.tokens, cases.shift)]
    found = collect(made)
    (entry,) = found["patch"]
    options, audio = lines_of(entry)
    rows = {
        (r["knockout"], r["layer"]): r
        for r in average_change(read(made[0]), center="difference", interval="bca").to_pylist()
    }
    tested = {(r["knockout"], r["layer"]): r["p"] for r in significance(read(made[0]), center="difference").to_pylist()}
    for line in (options, audio):
        for layer, change, low, high, samples, p in line["points"]:
            row = rows[line["path"], layer]
            assert (change, low, high, samples) == (row["change"], row["low"], row["high"], 12)
            assert p == tested[line["path"], layer]
    assert options["points"][3][1] == pytest.approx(-30, abs=0.1)
    (sentence,) = next(part["lines"] for part in summary(found) if part["title"] == "Patching")
    assert sentence.startswith("All samples (12 samples): putting the states of silence at option_correct changes")
    assert (
        "by −30.0 points at layer 3" in sentence and "layers 2–4" in sentence and sentence.endswith("not sure: audio.")
    )
    # Of two things looked at, each must be surer; and so few samples show nothing.
    barely = {**entry, "panels": [{"title": "", "lines": [{**options, "points": [[0, -20.0, -30.0, -10.0, 9, 0.04]]}]}]}
    assert "putting" in patch_sentence(barely) and "no site is sure" in patch_sentence(barely, looks=2)
    few = collect([cases.patch(tmp_path / "few", 3)])
    assert "3 samples are too few" in patch_sentence(few["patch"][0])
    (words,) = found["tokens"][0]["panels"]
    assert [line["label"] for line in words["lines"]] == ["'sky'", "'a$b'"]
    assert [p[1] for p in words["lines"][0]["points"]] == [10 * x for x in range(cases.LAYERS)]
    shifted, kl = (panel["lines"][0]["points"] for panel in found["shift"][0]["panels"])
    assert [p[1] for p in shifted] == [25.0] * cases.LAYERS and [p[1] for p in kl] == list(range(cases.LAYERS))
    assert shifted[0][2] == 0.0 and shifted[0][3] == 50.0  # of two samples
    text = report_together(made, tmp_path / "page").read_text()
    for title in ("Which states carry the answer", "What tokens say", "How far another model is"):
        assert title in text
    assert re.search(r"<td[^>]*>option_correct</td>\s*<td[^>]*>−30\.0</td>", text)
    assert set(data_of(text)) >= {"patch", "tokens", "shift"}


def test_the_first_sentence_says_what_was_found(folders, tmp_path):
    found = collect(folders)
    first = headline(found)
    assert (
        first.startswith("The answer needs video → question (−") and "when cut) in layers 2–4; nothing passes" in first
    )
    assert first.endswith("nothing passes from video and audio straight to the last token.")
    assert "in layers 3–5" in headline(found, base=1) and story(found) == {"sweep": 0, "paths": ["video->question"]}
    assert "over 6 samples; the largest change is −" in headline(collect([cases.sweep(tmp_path / "few", 3)]))
    noise = collect([cases.sweep(tmp_path / "noise", tasks=("pitch",))])
    assert headline(noise) == "No path that was cut changes the answer's probability by 5 % or more, over 12 samples."
    only = {key: found[key] for key in ("folders", "plan")}
    assert headline(only).startswith("Video after layer 3 and audio after layer 3 can leave: it saves 31 %")
    assert story(only) is None and headline({"folders": []}) == ""


def test_the_first_sentence_follows_the_answer_to_the_last_token(folders):
    """Where a path into the last token matters too, it comes second; where none is sure, the largest is named."""
    found = collect(folders)
    entry = found["sweeps"][0]["flow"][0]
    last = next(line for line in lines_of(entry) if line["path"] == "question->last")
    for point in last["points"][3:]:
        point[1:4] = [-30.0, -40.0, -20.0]
    assert "; nothing passes from video and audio straight to the last token. Which path goes on to it" in headline(
        found
    )
    for point in last["points"][3:]:
        point[5] = 0.001
    assert ", and then question → last (−30\u00a0% when cut) in layers 3–5; nothing passes" in headline(found)
    assert story(found)["paths"] == ["question->last", "video->question"]


def test_few_samples_are_called_few_and_one_shows_nothing(tmp_path):
    few, one = cases.sweep(tmp_path / "few", 3), cases.sweep(tmp_path / "one", 1)
    assert "3 samples are too few" in summary(collect([few]))[0]["lines"][0]
    lone = summary(collect([one]))[0]["lines"][0]
    assert "one sample shows nothing" in lone and "no path is sure to have mattered" in lone


def test_what_matters():
    assert matters([0, -20.0, -30.0, -10.0, 9, 0.01]) and matters([0, 20.0, 10.0, 30.0, 9, 0.04])
    assert not matters([0, -20.0, -45.0, 5.0, 9, 0.2])  # may be chance
    assert not matters([0, 20.0, 10.0, 30.0, 9, 0.04], looks=2)  # one of two sweeps that were looked at
    assert not matters([0, -2.0, -3.0, -1.0, 9, 0.001])  # sure, and small
    assert not matters([0, -90.0, None, None, 1, None])
    line = {"points": [[i, v, v, v, 5] for i, v in enumerate([-30.0, 0.0, -25.0, -50.0, -26.0, -24.0, -50.0])]}
    assert peak(line)[0] == 3 and extent(line) == (2, 4)


@pytest.mark.parametrize("samples", [5, 12, 30])
def test_noise_is_not_called_a_finding(samples):
    """15 paths and 36 layers of which none changes anything: an interval for each would let most paths matter."""
    rng, called, runs = np.random.default_rng(samples), 0, 20
    for _ in range(runs):
        values = np.cumsum(rng.normal(size=(samples, 15, 36)), 2) * 4
        rows = [
            row(f"s{s}", f"p{k}->last", layer, float(max(values[s, k, layer], -99.0)))
            for s in range(samples)
            for k in range(15)
            for layer in range(36)
        ]
        sentence = flow_sentence(flow_data(table_from_rows(rows), [])[0])
        called += "cutting" in sentence
        assert ("too few" in sentence) == (samples == 5) and "no path mattered" not in sentence
    assert called <= 4  # of 20 at 5 %: five or more come once in 400


def test_questions_on_one_video_count_as_one_sample(tmp_path):
    rows = [row(f"{v}-{q}", change=-20.0 + v + q) for v in range(7) for q in range(3)]
    records = [
        dict(id=f"{v}-{q}", media={f"/clips/{v}.mp4": [1, 2, "1-0123456789abcdef"]}) for v in range(7) for q in range(3)
    ]
    alone, together = (flow_data(table_from_rows(rows), known)[0] for known in ([], records))
    alone, together = (lines_of(entry)[0]["points"][0] for entry in (alone, together))
    assert alone[1] == together[1] and alone[5] == pytest.approx(1 / 4096) and together[5] == pytest.approx(1 / 64)
    assert together[3] - together[2] > alone[3] - alone[2]


def test_a_sentence_says_how_sure_it_is(folders):
    color = {part["title"]: part["lines"] for part in summary(collect(folders))}["Information flow"][0]
    assert "p < 0.001 after correction for all paths and layers" in color
    assert "95 % interval" in color


class Checker(HTMLParser):
    """Every element that needs an end has one, in order; the addresses that elements name; the ids."""

    VOID = {"meta", "link", "img", "input", "br", "hr"}

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids, self.wrong = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action", "data", "poster", "srcset")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))


def checked(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.wrong == [] and checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert all(address.startswith("data:") for address in checker.addresses), checker.addresses
    script = text.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace, not an address to ask
    assert not re.search(r"url\(\s*[\"']?(?!#)|@import|\bfetch\(|XMLHttpRequest|import\(", script)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", script)
    return checker


def test_the_page_is_whole_and_fetches_nothing(folders, tmp_path):
    out = report_together(folders, tmp_path, title="Mine & <yours>", note="A note < another.")
    text = out.read_text()
    ids = checked(text).ids
    assert {"flow", "heat", "share", "lens", "plan-p", "schedule"} <= set(ids) and "sample" in ids
    assert "sample" not in checked(report_together(folders[1:], tmp_path / "looks").read_text()).ids
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in text and "A note &lt; another." in text
    assert "org/made-up" in text and "torch" in text and "cpu-avx2" in text
    assert len(text) < 400_000


def test_every_section_only_where_its_data_are(folders, tmp_path):
    for one in folders:
        text = report_together([one], tmp_path).read_text()
        found = {"flow", "share", "lens", "plan-p"} & set(checked(text).ids)
        assert found == {{"run": "flow", "plan": "plan-p"}.get(one.name, one.name)}


def test_text_of_samples_cannot_break_the_page(tmp_path):
    evil = "</script><script>alert(1)</script><!--"
    assert "<" not in embedded({"a": evil}) and json.loads(embedded({"a": evil})) == {"a": evil}
    folder = cases.sweep(tmp_path / "run", tasks=(evil, "b"))
    text = report(folder)[-1].read_text()
    checked(text)
    assert text.count("<script") == 3 and data_of(text)["sweeps"][0]["flow"][1]["task"] == evil


def test_several_sweeps_stand_side_by_side(folders, tmp_path):
    other = cases.sweep(tmp_path / "other", 2, finish=False)
    text = report_together([*folders, other], tmp_path / "out").read_text()
    checked(text)
    assert [s["name"] for s in data_of(text)["sweeps"]] == ["run", "other"] and 'id="compare"' in text
    assert "other: this run is not finished" in text and "Information flow, other" in text


def test_sweeps_without_a_task_in_common_are_chosen_but_not_compared(folders, tmp_path):
    items = cases.sweep(tmp_path / "items", 3, tasks=("find_image", "find_sound"))
    text = report_together([*folders, items], tmp_path / "out").read_text()
    checked(text)
    assert [s["name"] for s in data_of(text)["sweeps"]] == ["run", "items"] and "Information flow, items" in text
    assert 'id="compare"' not in text and "side by side" not in text


def test_several_widths_of_one_run_stand_side_by_side_too(tmp_path):
    folder = cases.sweep(tmp_path / "run", 3, widths=(1, 3))
    files = report(folder)
    assert [s["name"] for s in data_of(files[-1].read_text())["sweeps"]] == ["run, window 1", "run, window 3"]
    assert {"flow_1.png", "flow_3.png", "heat_map_3.pdf"} <= {f.name for f in files}


def test_what_cannot_be_shown(folders, tmp_path):
    with pytest.raises(InputError, match="second run of 'share'"):
        collect([folders[1], cases.share(tmp_path / "share")])
    with pytest.raises(InputError, match="given twice"):
        collect([folders[0], folders[0]])
    with pytest.raises(InputError, match="first_layer is 2"):
        report_together([folders[0]], tmp_path, first_layer=2)
    (tmp_path / "sinks").mkdir()
    (tmp_path / "sinks" / "config.yaml").write_text("experiment: sinks\n")
    with pytest.raises(InputError, match="run of 'sinks'"):
        collect([tmp_path / "sinks"])
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "config.yaml").write_text("evict: [video]\n")
    with pytest.raises(InputError, match="no plan.parquet"):
        collect([tmp_path / "plan"])


def test_a_shown_sample(tmp_path):
    model = demo_folder.model()
    sample = avflow.Sample.read_jsonl(demo_folder.demo()["samples"])[0]
    prompt = model.prepare(sample)
    entry = sample_view(prompt, model)
    stretches = entry["tokens"]["stretches"]
    names = [g["group"] for g in entry["tokens"]["groups"]]
    told = [(names[g], item) for g, item, _, count, _ in stretches for _ in range(count)]
    assert told == list(zip(prompt.groups, prompt.items, strict=True)) and entry["tokens"]["count"] == len(prompt)
    assert sum(g["count"] for g in entry["tokens"]["groups"]) == len(prompt)
    assert sample.question in "".join(s[4] for s in stretches)
    frames, sound = entry["media"]
    assert len(frames["pictures"]) == len(frames["times"]) == 8 and frames["times"][0] == 0
    assert sound["seconds"] == pytest.approx(4.0, abs=0.1) and 0.3 < max(sound["high"]) <= 1
    clean, kept = Generated("red", [1, 2], 0.2, 0.1, 100), Generated("blue", [3], 0.1, 0.0, 60)
    write_sample_views(tmp_path, [entry | {"answers": answers(clean, kept)}], {"video": 3})
    found = collect([tmp_path])
    assert "0 of 1 generated answers" in summary(found)[0]["lines"][0]
    checked(page(found, "t"))
    (tmp_path / "shown.json").write_text('{"format": "avflow-shown", "version": 9}')
    with pytest.raises(InputError, match="version 9"):
        read_sample_views(tmp_path)


def test_a_prompt_from_no_sample_has_nothing_to_show():
    made = demo_folder.model().prepare(avflow.Sample.read_jsonl(demo_folder.demo()["samples"])[0])
    with pytest.raises(InputError, match="from no sample"):
        sample_view(dataclasses.replace(made, sample=None), demo_folder.model())


def test_the_comparison_has_the_same_skeleton_and_style(folders, tmp_path):
    evil = "</style><b>'&\""
    other = cases.sweep(tmp_path / "a" / "run", 2, tasks=(evil, "b"), finish=False)
    made = compare([folders[0], other], tmp_path / "out", title="A <b> & 'c'")
    text = made[-1].read_text()
    assert made[-1].name == "comparison.html" and checked(text).ids == []
    assert "<title>A &lt;b&gt; &amp; &#39;c&#39;</title>" in text and evil not in text and "&lt;/style&gt;" in text
    assert "a/run is not finished" in text and text.count("<img") == len(cases.PATHS) and "<script" not in text
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert style == re.search(r"<style>(.*?)</style>", report_together(folders, tmp_path).read_text(), re.S)[1]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text())))
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", text)]
    assert "95 % interval" in text and len(cells) == len(rows) * (len(rows[0]) - 1)  # low and high in one
    of_row = [cells[i : i + len(rows[0]) - 1] for i in range(0, len(cells), len(rows[0]) - 1)]
    for own, (run, model, task, samples, accuracy, path, layer, depth, change, band, p) in zip(
        rows, of_row, strict=True
    ):
        assert (run, model, task, samples, path, layer) == tuple(
            own[name] for name in ("run", "model", "task", "samples", "path", "layer")
        )
        numbers = [number(text) for text in (accuracy, depth, change, *band.split(" … "))]
        want = [float(own[name]) for name in ("accuracy", "depth", "change_percent", "low", "high")]
        assert numbers == pytest.approx(want, rel=0.005, abs=0.05)
        assert p == {"": "–", "1.0": "1"}.get(own["p"]) or own["p"] and abs(number(p) - float(own["p"])) < 0.001


def number(text):
    """What a page's number says; it has at most three significant digits, and no hyphen for a minus."""
    digits = re.sub(r"[^0-9.]", "", text)
    assert "-" not in text and (len(digits.replace(".", "").lstrip("0")) <= 3 or re.fullmatch("[0-9]{3}0+", digits))
    return float(digits) * (-1 if text.startswith("−") else 1)


def test_runs_over_the_same_samples_are_compared_sample_by_sample(folders, tmp_path):
    rows = avflow.read(folders[0]).table.to_pylist()
    for r in rows:
        if r["knockout"] == "video->last" and r["layer"] == 2:
            r["change_percent"] -= 3  # small, and in every sample
    Results.from_rows(rows, {"experiment": "sweep"}).save(tmp_path / "again")
    made = compare([folders[0], tmp_path / "again"], tmp_path / "out")
    assert [path.name for path in made[:2]] == ["comparison.csv", "differences.csv"]
    with open(made[1], newline="") as file:
        found = {row["path"]: row for row in csv.DictReader(file)}
    assert list(found) == list(cases.PATHS)
    row = found.pop("video->last")
    assert (row["layer"], row["samples"], float(row["p"])) == ("2", "24", pytest.approx(1 / 4096, abs=1e-4))
    assert float(row["difference"]) == pytest.approx(3) and float(row["low"]) > 2.9
    assert {(r["difference"], r["p"]) for r in found.values()} == {("0.0", "1.0")}
    assert "Where two runs differ for sure" in made[-1].read_text()
    strongest = list(csv.DictReader(io.StringIO(made[0].read_text())))
    video = next(r for r in strongest if r["path"] == "video->question" and r["task"] == "color")
    assert float(video["low"]) < float(video["change_percent"]) < float(video["high"]) and float(video["p"]) < 0.001


def test_noise_does_not_fill_the_axis_of_a_comparison(folders):
    runs = read_runs([folders[0]])
    quiet, loud = (compare_path(runs, path)[1].get_ylim() for path in ("video->last", "video->question"))
    assert quiet[1] - quiet[0] == pytest.approx(5) and quiet[0] < 0 < quiet[1] and loud[1] - loud[0] > 20


def test_no_cell_of_the_csv_file_is_a_formula(tmp_path):
    tasks = ('=HYPERLINK("http://x","y")', "+1", "-1", "@x", "\tx", "plain-1")
    runs = [cases.sweep(tmp_path / name, 1, tasks=tasks) for name in ("=one", "two")]
    with open(compare(runs, tmp_path / "out")[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {"all", "plain-1", *("'" + task for task in tasks[:-1])}
    assert {row["run"] for row in rows} == {"'=one", "two"}
    assert any(float(row["change_percent"]) < 0 for row in rows)  # numbers stay numbers


def test_folders_whose_names_are_not_utf8(tmp_path):
    """b"r\\xff" is no text; of "ü" an ASCII locale makes surrogates too, though its bytes are UTF-8."""
    for name, shown in ((b"r\xff", r"r\xff"), ("r\u00fc".encode(), "r\u00fc")):
        folder = tmp_path / name.decode("ascii", "surrogateescape")
        cases.sweep(folder, 1)
        report(folder, title=folder.name)
        text = report_together([folder], folder / "again").read_text("utf-8")
        assert shown in text and data_of(text)["sweeps"]
        other = cases.sweep(tmp_path / f"other-{len(name)}", 1)
        table, *_ = compare([folder, other], tmp_path / f"out-{len(name)}")
        assert shown in table.read_text("utf-8")


def test_folder_names_are_the_shortest_that_differ(tmp_path):
    one, two, three = tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"
    assert folder_names([one]) == ["run"] and folder_names([two, three]) == ["run", "other"]
    assert folder_names([one, str(two), three]) == ["a/run", "b/run", "b/other"]
    with pytest.raises(InputError, match="given twice"):
        folder_names([one, two, one])
    with pytest.raises(InputError, match="name one or more"):
        collect([])


def test_the_old_name_of_select_is_taken_with_a_warning(folders, tmp_path):
    new = collect([folders[0]], select="wrong")
    with pytest.warns(DeprecationWarning, match=r"which= is now select= in collect\(\)") as found:
        assert collect([folders[0]], which="wrong") == new != collect([folders[0]])
    assert found[0].filename == __file__  # the line of the caller, not of the package
    with pytest.warns(DeprecationWarning, match="report_together"):
        report_together([folders[0]], tmp_path, which="correct")
    with pytest.raises(TypeError, match="pass select= alone"):
        collect([folders[0]], select="wrong", which="all")


def test_the_scripts_the_style_and_the_templates_are_in_the_package():
    from avflow.report.html import SCRIPTS

    folder = Path(avflow.__file__).parent / "report"
    assert {p.name for p in folder.glob("templates/*")} >= {"page.html.j2", "report.html.j2", "comparison.html.j2"}
    assert {f"js/{p.name}" for p in folder.glob("js/*.js")} == set(SCRIPTS) and (folder / "page.css").is_file()
