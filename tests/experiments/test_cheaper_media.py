"""In-media cells at a fraction: `media_until` against dense masks, `spread`, and the share that is run exactly."""

from __future__ import annotations

import math

import oracle
import pytest
import tiny
import tiny_deep
import torch
from tiny_job import TinyJob, write

import avflow
from avflow import plots
from avflow.cli.sweep import sweep_options
from avflow.errors import InputError
from avflow.experiments.cheaper import MEDIA, check_summary, last_media_layer
from avflow.knockouts.presets import PRESETS, as_knockouts
from avflow.models.compat import find_text_model
from avflow.report import report
from avflow.runs.loop import run
from avflow.walk.memory import fixed_bytes, row_bytes

PATHS = ["cross:video", "audio<->video", "media->all", "video->question", "question->last", "all->all (heads 0-1)"]
IN_MEDIA = {"cross:video", "audio<->video", "media->all", "all->all (heads 0,1)"}
ASKED = dict(window=2, select="all")


def no_media_above(prompt, knockout, layers, until, n_layers, heads):
    """Masks by layer: the knockout's in its window (None: none's), and above `until`, from it on, all of the media."""
    groups, items = [*prompt.groups], [*prompt.items]
    cut = torch.zeros(heads, len(groups), len(groups), dtype=torch.bool)
    if knockout is not None:
        cut = oracle.cut_edges(knockout, groups, items, heads)
    media = torch.tensor([g in MEDIA for g in groups])
    gone = torch.zeros_like(cut)
    gone[:, :, media] = True
    gone[:, torch.arange(len(groups)), torch.arange(len(groups))] = False  # a medium's row keeps itself: never empty
    masks = {}
    for layer in range(n_layers):
        mask = torch.zeros_like(cut)
        mask |= cut if layer in layers else mask
        mask |= gone if layer > until and layer >= min(layers) else mask  # until its window it is the clean run
        masks[layer] = mask[None]
    return masks


def by_cell(results) -> dict:
    return {(row["prompt"], row["knockout"], row["layer"]): row for row in results.table.to_pylist()}


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first", "deepstack"])
@pytest.mark.parametrize("until", [0, 1, 2])
def test_an_estimate_is_the_run_without_media_above_a_layer(omni, layout, until):
    knockouts = as_knockouts(PATHS)
    if layout == "deepstack":
        omni, prompt = tiny_deep.model(), tiny_deep.prompt(3)
    else:
        prompt = tiny.av_prompt(layout, seconds=3)
    found = avflow.sweep(omni, prompt, knockouts, **ASKED, media_until=until, media_check=0)
    exact = avflow.sweep(omni, prompt, knockouts, **ASKED).table.to_pylist()
    by_name = {one.name: one for one in knockouts}
    heads, n_layers = find_text_model(omni.hf).config.num_attention_heads, omni.n_layers
    differ = 0
    for row, plain in zip(found.table.to_pylist(), exact, strict=True):
        where = f"{row['knockout']} at {row['layer']}"
        if row["knockout"] not in IN_MEDIA and layout != "question_first":
            assert row["logp_knockout"] == pytest.approx(plain["logp_knockout"], abs=1e-5), where
            continue
        if row["status"] != "ok" or row["knockout"] in ("video->question", "question->last"):
            continue
        layers = oracle.window_layers(row["layer"], 2, "center", n_layers)
        masks = no_media_above(prompt, by_name[row["knockout"]], layers, until, n_layers, heads)
        logp, _ = oracle.answer_logp(omni.hf, prompt, cuts=masks)
        beside, _ = oracle.answer_logp(
            omni.hf, prompt, cuts=no_media_above(prompt, None, layers, until, n_layers, heads)
        )
        logp = min(0.0, row["logp_clean"] + logp - beside)
        assert row["logp_knockout"] == pytest.approx(logp, abs=1e-4), where
        differ += abs(logp - plain["logp_knockout"]) > 1e-3
    assert differ > 3  # an estimate of this random model, which reads its media to the end
    assert found.meta["media_until"] == until and found.meta["media_check_found"] is None


def test_walks_in_parts_and_several_prompts_give_the_same(omni):
    prompts = [tiny.av_prompt(seconds=2), tiny.av_prompt("separate", seconds=3, id="1", answer_ids=(7, 9))]
    asked = dict(**ASKED, media_until=1, media_check=0.3)
    whole = avflow.sweep(omni, prompts, PATHS, **asked)
    little = fixed_bytes(omni, max(map(len, prompts)) + 2) + 3 * max(map(len, prompts)) * row_bytes(omni)
    parted = avflow.sweep(omni, prompts, PATHS, **asked, memory=little)
    for one, other in zip(whole.table.to_pylist(), parted.table.to_pylist(), strict=True):
        assert one["logp_knockout"] == pytest.approx(other["logp_knockout"], abs=1e-5)


def test_a_random_share_is_run_exactly_too(omni):
    prompts = [tiny.av_prompt(seconds=2, id=str(i), seed=i) for i in range(3)]
    asked = dict(**ASKED, media_until=1)
    found = avflow.sweep(omni, prompts, PATHS, **asked, media_check=0.4)
    exact, rows = by_cell(avflow.sweep(omni, prompts, PATHS, **ASKED)), by_cell(found)
    checked = {info["prompt"]: info["media_check"] for info in found.meta["prompts"]}
    count = sum(map(len, checked.values()))
    assert 8 < count < 32  # of 3 x 4 x 4 cells
    for prompt, cells in checked.items():
        for name, layer, width, estimate, truth in cells:
            assert name in IN_MEDIA and width == 2
            assert estimate == pytest.approx(rows[prompt, name, layer]["change_percent"], rel=1e-6)
            assert truth == pytest.approx(exact[prompt, name, layer]["change_percent"], rel=1e-3, abs=1e-3)
    summary = found.meta["media_check_found"]
    sizes = [abs(e - t) for cells in checked.values() for *_, e, t in cells]
    assert summary["cells"] == count and summary["largest"] == max(sizes)
    assert summary["mean"] == pytest.approx(sum(sizes) / count) and set(summary["paths"]) <= IN_MEDIA
    every = avflow.sweep(omni, prompts[:1], PATHS, **asked, media_check=1.0)
    assert len(every.meta["prompts"][0]["media_check"]) == 16
    assert check_summary([]) is None


def test_a_spread_gives_every_cell_its_share_of_the_samples(omni):
    prompts = [tiny.av_prompt(seconds=2, id=f"sample {i}", seed=i) for i in range(12)]
    asked = dict(**ASKED, layers=[0, 1, 2])
    found = avflow.sweep(omni, prompts, PATHS[:4], **asked, spread=3)
    exact = by_cell(avflow.sweep(omni, prompts, PATHS[:4], **asked))
    counts: dict = {}
    for cell, row in by_cell(found).items():
        assert row["logp_knockout"] == pytest.approx(exact[cell]["logp_knockout"], abs=1e-5)
        counts.setdefault(cell[:2], []).append(cell[2])
    for (_, name), layers in counts.items():
        assert len(layers) == (1 if name in IN_MEDIA else 3)
    samples = {(r["knockout"], r["layer"]): r["samples"] for r in found.mean_change().to_pylist()}
    assert [samples["video->question", layer] for layer in (0, 1, 2)] == [12] * 3
    for name in set(PATHS[:4]) & IN_MEDIA:
        own = [samples[name, layer] for layer in (0, 1, 2)]
        assert sum(own) == 12 and max(own) < 10


def test_what_it_costs(omni):
    """Few layers hold the media of knocked-out runs, or few cells do: fewer rows."""
    prompt = tiny.av_prompt(seconds=4)
    rows = {
        name: avflow.estimate(omni, prompt, avflow.SweepRequest("av_video", window=1, media_check=0, **more))["ratio"]
        for name, more in {"exact": {}, "until": {"media_until": 0}, "spread": {"spread": 4}}.items()
    }
    after = avflow.estimate(omni, prompt, avflow.SweepRequest("after_media", window=1))["ratio"]
    assert after < rows["until"] < rows["exact"] - 1 and rows["spread"] < rows["exact"] - 1


def test_the_cheap_part_of_the_preset():
    gone = set(PRESETS["av_video"]) - set(PRESETS["after_media"])
    assert gone == {"cross:video", "cross:audio", "audio<->video"} and len(PRESETS["after_media"]) == 12


def test_a_layer_from_a_schedule(tmp_path):
    avflow.EvictionSchedule({"video": 5, "audio": 7, "question_text": 9}).save(tmp_path / "plan.json")
    assert last_media_layer(tmp_path / "plan.json") == 7 and last_media_layer(None) is None
    avflow.EvictionSchedule({"question_text": 9}).save(tmp_path / "text.json")
    with pytest.raises(InputError, match="no media leave"):
        last_media_layer(str(tmp_path / "text.json"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(media_until=-1), "media_until = -1"),
        (dict(media_until=1.5), "the file of a schedule"),
        (dict(media_until=3), "after layer 2 at the latest"),
        (dict(media_check=2), "media_check = 2"),
        (dict(spread=0), "spread = 0"),
    ],
)
def test_what_makes_no_sense(omni, asked, message):
    with pytest.raises(InputError, match=message):
        avflow.sweep(omni, tiny.av_prompt(), PATHS, **ASKED, **asked)


def test_a_run_tells_the_difference_and_is_resumed(tmp_path):
    samples = write(tmp_path / "samples.jsonl", ["a", "bb", "ccc"])
    asked = dict(media_until=1, media_check=0.5, spread=2)
    first = run(TinyJob("tiny", samples, PATHS, window=2, select="all", **asked), tmp_path / "run", quiet=True)
    text = (tmp_path / "run" / "summary.json").read_text()
    assert '"media_check"' in text and first.counts["ok"] == 3
    again = run(TinyJob("tiny", samples, PATHS, window=2, select="all", **asked), tmp_path / "run", quiet=True)
    assert again.skipped == 3 and again.table.equals(first.table)
    for other in ({"spread": 1}, {"media_until": 2}, {"media_check": 0.1}):
        with pytest.raises(InputError, match=next(iter(other))):
            run(TinyJob("tiny", samples, PATHS, window=2, select="all", **asked | other), tmp_path / "run", quiet=True)
    assert all(math.isfinite(row["change_percent"]) for row in first.table.to_pylist() if row["status"] == "ok")


def test_the_page_and_the_figures_say_what_is_an_estimate_and_on_how_many_samples(tmp_path):
    samples = write(tmp_path / "samples.jsonl", [f"s{i}" for i in range(6)])
    asked = dict(media_until=1, media_check=0.5, spread=2)
    run(TinyJob("tiny", samples, PATHS, window=2, select="all", **asked), tmp_path / "run", quiet=True)
    report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "estimates: without media above layer 1" in page and "that were run exactly too they are off by" in page
    assert "each sample ran one in 2 cells" in page
    _, ax = plots.flow(avflow.read(tmp_path / "run").table)
    labels = {text.get_text() for text in ax.get_legend().get_texts()}
    assert any("other frames" in label and "(n = " in label for label in labels), labels
    assert "video → question" in labels  # on all samples
    _, ax = plots.heat_map(avflow.read(tmp_path / "run").table)
    assert any("(n = " in text.get_text() for text in ax.get_yticklabels())


def test_the_options_of_the_command():
    read = sweep_options(media_until="3", media_check=0.0, spread=2, knockouts=["after_media"])
    assert read == {"media_until": 3, "media_check": 0.0, "spread": 2, "knockouts": ["after_media"]}
    assert sweep_options(media_until="plan.json", spread=None) == {"media_until": "plan.json"}
