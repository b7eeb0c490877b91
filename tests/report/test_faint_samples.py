"""A sweep over all samples, one of a clean probability next to nothing: page and figures show points, and say so."""

import csv
import io
import json
import re

import numpy as np
import page_cases as cases
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

import avflow
from avflow import plots
from avflow.cli.main import app
from avflow.errors import InputError
from avflow.report.collect import collect
from avflow.report.comparison import compare, compare_path, read_runs, task_rows
from avflow.report.flow import lines_of
from avflow.report.headline import headline
from avflow.report.view import View
from avflow.report.words import measure_note, summary
from avflow.report.write import report, report_together
from avflow.results.change import average_change
from avflow.results.default_center import default_center, faint_samples
from avflow.results.results import Results

FAINT = 2.6e-7  # what the model gave the answer that it holds for wrong


def folder_of(folder, p=FAINT, **made):
    """The case's sweep, where color-0 has this clean probability, and each cut lifts it by half a point."""
    rows = avflow.read(cases.sweep(folder / "clean", **made)).table.to_pylist()
    for row in rows:
        if row["prompt"] == "color-0":
            row |= {"p_clean": p, "p_knockout": p + 0.005, "change_percent": 100 * 0.005 / p, "correct": False}
            row |= {"logp_clean": float(np.log(p)), "logp_knockout": float(np.log(p + 0.005))}
    Results.from_rows(rows, {"experiment": "sweep"}).save(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("faint"))


def test_the_average_is_chosen_by_the_clean_runs_alone(folder, tmp_path):
    table = avflow.read(folder).table
    assert faint_samples(table) == 1 and default_center(table) == "difference"
    right = avflow.read(cases.sweep(tmp_path / "right")).table
    assert (
        faint_samples(right) == 0 and default_center(right) == "mean" and default_center(right, table) == "difference"
    )
    assert default_center(avflow.read(folder_of(tmp_path / "low", p=0.011)).table) == "mean"
    alone = table.filter(pc.equal(table["prompt"], "color-0"))  # nothing to be compared with
    assert default_center(alone) == "mean" and faint_samples(table.slice(0, 0)) == 0


def all_faint(folder, least=FAINT, most=4 * FAINT):
    """The case's sweep, clean probabilities spread between these two; cuts change them by the same percentages."""
    rows = avflow.read(cases.sweep(folder / "clean")).table.to_pylist()
    ids = list(dict.fromkeys(row["prompt"] for row in rows))
    for row in rows:
        p = least * (most / least) ** (ids.index(row["prompt"]) / (len(ids) - 1))
        cut = p * (1 + row["change_percent"] / 100)
        row |= {"p_clean": p, "p_knockout": cut, "logp_clean": float(np.log(p)), "logp_knockout": float(np.log(cut))}
    Results.from_rows(rows, {"experiment": "sweep"}).save(folder / "run")
    return folder / "run"


def test_where_all_are_faint_percent_stay_and_the_page_says_of_what(tmp_path):
    alike, unlike = all_faint(tmp_path / "alike"), all_faint(tmp_path / "unlike", most=900 * FAINT)
    assert default_center(avflow.read(alike).table) == "mean"
    table = avflow.read(unlike).table
    assert default_center(table) == "log_ratio"  # points would say that no path does anything
    at = table.schema.get_field_index("logp_knockout")
    nothing = pa.array([-np.inf] + table["logp_knockout"].to_pylist()[1:])
    assert default_center(table.set_column(at, "logp_knockout", nothing)) == "ratio_of_means"
    for folder in (alike, unlike):
        found = collect([folder])
        first, note = headline(found), measure_note(found)
        assert re.match(r"The answer needs video → question \(−[23][0-9]\xa0% when cut\) in layers 2–4", first)
        most = "1e-06" if folder == alike else "0.00023"
        assert f"The answer had a clean probability below 1 % in every sample ({most} at most)" in note
        apart = re.search(
            r" Of ([0-9]+) samples ([0-9]+) had a clean probability below 1 %, far below that of another", note
        )
        assert apart is None if folder == alike else 0 < int(apart[2]) < int(apart[1])
        assert note in report_together([folder], tmp_path, media=False).read_text()
        assert "none can lose a point" in avflow.read(folder)._repr_html_()
    both = measure_note(collect([alike, cases.sweep(tmp_path / "other")]))
    assert both.startswith("In 1 of 2 sweeps the answer had a clean probability below 1 %")
    assert "none can lose a point" not in avflow.read(cases.sweep(tmp_path / "more"))._repr_html_()


def test_the_page_is_readable_and_says_what_it_shows(folder, tmp_path):
    found = collect([folder])
    entry = found["sweeps"][0]["flow"][0]
    assert (entry["unit"], entry["axis"]) == ("points", "Change in answer probability (points)")
    want = {
        (r["knockout"], r["layer"]): (r["change"], r["low"], r["high"])
        for r in average_change(avflow.read(folder), center="difference", interval="bca").to_pylist()
    }
    assert {(line["path"], p[0]): tuple(p[1:4]) for line in lines_of(entry) for p in line["points"]} == want
    first = headline(found)
    assert re.match(r"The answer needs video → question \(−11\xa0points when cut\) in layers 2–4;", first)
    color = next(line for part in summary(found) for line in part["lines"] if line.startswith("color"))
    assert re.search(r"by 2[0-9]\.\d points at layer 3 \(95 % interval \d\d\.\d to \d\d\.\d", color)
    note = measure_note(found)
    assert note.startswith("Changes are in points of probability") and "Of 24 samples 1 had a clean probability" in note
    text = report_together([folder], tmp_path, media=False).read_text()
    assert note in text and "change (points)" in text and "change (%)" not in text
    each = {sample["id"]: sample for sample in found["sweeps"][0]["each"]}
    assert abs(each["color-0"]["effect"][2]) == pytest.approx(0.5) and each["color-3"]["effect"][2] < -20
    shown = View([folder]).sample(0, [*each].index("color-0"))
    assert json.loads(shown)["curves"]["video->last"][0] == [0, 0.5]


def test_another_average_is_taken_where_one_is_asked_for(folder, tmp_path):
    assert measure_note(collect([folder], center="mean")) == "" != measure_note(collect([folder], center="log_ratio"))
    assert re.search(
        r"\d,\d{3}", headline(collect([folder], center="mean")) + str(summary(collect([folder], center="mean")))
    )
    page = report(folder, center="ratio_of_means", media=False)[-1].read_text()
    assert "Changes are those of the mean probability, in percent" in page and "change (%)" in page
    done = CliRunner().invoke(app, ["report", str(folder), "--center", "log_ratio", "--no-media"])
    assert done.exit_code == 0 and "geometric mean" in (folder / "report.html").read_text()
    for wrong in ("median", "percent"):
        with pytest.raises(InputError, match=f"center.*{wrong}"):
            report_together([folder], tmp_path, center=wrong)


def test_figures_show_points_and_say_so(folder):
    results = avflow.read(folder)
    panels = plots.flow_panels(results)[1]
    axes = [plots.flow(results)[1], panels[0], plots.widths(results, "video->question")[1]]
    axes.append(compare_path(read_runs([folder]), "video->question")[1])
    for ax in axes:
        assert ax.get_ylabel() == "Change in answer probability (points)"
        assert -60 < ax.get_ylim()[0] < ax.get_ylim()[1] < 60
    figure, _ = plots.heat_map(results)
    assert figure.axes[-1].get_ylabel() == "Change (points)"
    assert plots.flow(results, center="mean")[1].get_ylim()[1] > 1e4


def test_runs_and_tasks_are_compared_in_points(folder, tmp_path):
    made = compare([folder, cases.sweep(tmp_path / "other")], tmp_path / "out")
    text = made[-1].read_text()
    assert "in points of probability" in text and "change (points)" in text
    rows = list(csv.DictReader(io.StringIO(made[0].read_text())))
    assert "change_points" in rows[0] and all(abs(float(row["change_points"])) < 60 for row in rows)
    tasks = task_rows(read_runs([folder]), "difference")
    assert (
        max(abs(row["difference"]) for row in tasks)
        < 60
        < max(abs(r["change"]) for r in task_rows(read_runs([folder])))
    )
