"""Figures of shares, lens, maps and pathways: what is drawn is what the table says."""

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pytest
from tiny import decoder, text_prompt

import avflow
from avflow.experiments import answer_lens as lens
from avflow.experiments import attention_share as share
from avflow.experiments.pathways import SCHEMA
from avflow.plots import attention as plots_attention
from avflow.plots import attention_maps, shift_lines
from avflow.plots import information_flow as plots

mpl.use("Agg")


def share_rows(rows):
    names = ("prompt", "task", "layer", "answer_token", "token", "head", "group", "share")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=share.SCHEMA)


def heights(ax):
    """label -> heights over the layers."""
    return {bars.get_label(): [bar.get_height() for bar in bars] for bars in ax.containers}


def test_bars_are_mean_shares_and_stack_to_the_whole():
    table = share_rows(
        [
            ("a", "", 0, 0, "", None, "video", 0.6),
            ("a", "", 0, 0, "", None, "last", 0.4),
            ("a", "", 1, 0, "", None, "video", 0.1),
            ("a", "", 1, 0, "", None, "last", 0.9),
            ("b", "", 0, 0, "", None, "audio", 0.2),  # this prompt has no video: none of its attention went there
            ("b", "", 0, 0, "", None, "last", 0.8),
            ("b", "", 1, 0, "", None, "audio", 0.5),
            ("b", "", 1, 0, "", None, "last", 0.5),
        ]
    )
    figure, ax = plots_attention.share_bars(table, first_layer=1)
    found = heights(ax)
    assert found["video"] == pytest.approx([30, 5]) and found["audio"] == pytest.approx([10, 25])
    assert found["last"] == pytest.approx([60, 70])
    tops = {round(bar.get_y() + bar.get_height(), 4) for bars in ax.containers for bar in bars}
    assert max(tops) == pytest.approx(100)
    assert [bar.get_x() + bar.get_width() / 2 for bar in ax.containers[0]] == pytest.approx([1, 2])
    assert ax.get_title(loc="left") == "Attention allocation (2 samples)"


def test_bars_of_one_token():
    table = share_rows([("a", "", 0, t, "", None, "video", 1.0) for t in (0, 1)])
    assert heights(plots_attention.share_bars(table, token=1)[1])["video"] == pytest.approx([100])
    with pytest.raises(avflow.InputError, match="no rows of token 5"):
        plots_attention.share_bars(table, token=5)


def test_lens_lines_count_every_prompt_once():
    rows = []
    for prompt, true, false in (("a", 0.5, (0.1, 0.3)), ("b", 0.7, (0.2,))):
        for layer in (0, 1):
            rows.append((prompt, "", layer, "A", 1, "true option", true + layer / 10, 0.0, "A"))
            rows += [(prompt, "", layer, "B", 2, "false option", f, 0.0, "A") for f in false]
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), lens.SCHEMA, strict=True)]
    _, ax = plots_attention.lens_lines(pa.table(columns, schema=lens.SCHEMA))
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(lines["true option"], [0.6, 0.7], atol=1e-6)
    np.testing.assert_allclose(lines["false option"], [0.2, 0.2], atol=1e-6)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() >= 0.5 - 1e-6 and band.max() <= 0.8 + 1e-6


def test_everything_a_run_gives_can_be_drawn_and_saved(tmp_path):
    model, prompt = avflow.wrap(decoder("qwen2")), text_prompt(64)
    prompt.option_ids = [7, 8]
    found = avflow.attention_map(model, prompt, layers=[1], bins=20)
    keep = {"video->question": None, "question->last": None}
    figures = {
        "share": plots_attention.share_bars(avflow.attention_share(model, prompt))[0],
        "lens": plots_attention.lens_lines(avflow.answer_lens(model, prompt))[0],
        "map": attention_maps.map_image(found, 1)[0],
        "pathways": plots_attention.pathway_bars(avflow.pathways(model, prompt, keep, random=2))[0],
    }
    for name, figure in figures.items():
        assert {p.suffix for p in plots.save(figure, tmp_path / name)} == {".png", ".pdf"}
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    with pytest.raises(avflow.InputError, match="layer 0 is not in the map"):
        attention_maps.map_image(found, 0)


def test_pathway_bars_show_accuracy_and_edges():
    rows = []
    for prompt, hits in (("a", (True, True, False, True)), ("b", (True, False, False, False))):
        for run, correct in zip(("full", "pathways", "random 0", "random 1"), hits, strict=True):
            rows.append((prompt, "", run, 1.0 if run == "full" else 0.4, correct, 0.5, -0.7))
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    _, ax = plots_attention.pathway_bars(pa.table(columns, schema=SCHEMA))
    assert [bar.get_height() for bar in ax.containers[0]] == pytest.approx([100, 50, 25])
    assert [t.get_text() for t in ax.get_xticklabels()][1:] == ["pathways\n40 % of edges", "random\n40 % of edges"]


def test_shift_lines_count_every_prompt_once():
    rows = [
        ("0", "", "video", layer, 30, 0.5, 0.5, 0.25, shifted) for layer, shifted in enumerate((0.25, 0.75))
    ]  # prompt, task, group, layer, tokens, kl, unshifted, marginal, shifted
    rows += [("1", "", "video", layer, 2, 1.5, 0.5, 0.25, shifted) for layer, shifted in enumerate((0.75, 0.25))]
    rows.append(("1", "", "last", 0, 1, 2.0, 1.0, 0.0, 0.0))
    table = avflow.Results.from_tuples("lens_shift", rows).table
    _, ax = shift_lines(table, first_layer=1)
    video, last = ax.get_lines()
    assert video.get_xydata().tolist() == [[1, 50], [2, 50]] and last.get_xydata().tolist() == [[1, 0]]
    assert ax.get_ylabel() == "Shifted tokens (%)" and "2 samples" in ax.get_title(loc="left")
    _, ax = shift_lines(table, "kl")
    assert ax.get_lines()[0].get_xydata().tolist() == [[0, 1], [1, 1]]
    with pytest.raises(avflow.InputError, match="value"):
        shift_lines(table, "count")
