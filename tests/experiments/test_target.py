"""Whose probability a sweep measures: the key's, or that of what the clean model itself would say."""

import copy

import pyarrow as pa
import pytest
import tiny
import tiny_job
from oracle import answer_logp, window_layers

import avflow
from avflow import plots
from avflow.errors import InputError
from avflow.report.flow import flow_data
from avflow.results.change import average_change, target_of
from avflow.results.table import checked
from avflow.runs.folder import read_config
from avflow.runs.loop import run

PATHS = ["video->question", "question->last", "audio->last"]
KEY = ("key", "p_clean_key", "p_knockout_key", "change_percent_key")


@pytest.fixture(scope="module")
def model():
    return avflow.wrap(tiny.thinker())


def asked(answer_ids=(7,), id="0"):
    return tiny.av_prompt("interleaved", seconds=2, answer_ids=answer_ids, id=id, seed=int(id) + 1)


def saying(prompt, token):
    """The prompt with another answer."""
    other = copy.copy(prompt)
    other.answer_ids = [token]
    return other


@pytest.mark.parametrize("answer_ids", [(7,), (7, 30, 11)])
def test_the_models_own_token_is_measured_as_if_it_were_the_key(model, answer_ids):
    prompt = asked(answer_ids)
    top = answer_logp(model.hf, prompt)[1]
    assert top != 7
    own = avflow.sweep(model, prompt, PATHS, window=3, select="all", target="own").table.to_pylist()
    key = avflow.sweep(model, prompt, PATHS, window=3, select="all").table.to_pylist()
    mine = avflow.sweep(model, saying(prompt, top), PATHS, window=3, select="all").table.to_pylist()
    for a, b, c in zip(own, key, mine, strict=True):
        assert a["target"] == "own" and b["target"] == "key" and a["answer"] == c["answer"] == str(top)
        for name in ("p_clean", "p_knockout", "logp_clean", "logp_knockout", "change_percent"):
            assert a[name] == pytest.approx(c[name], rel=1e-4, abs=1e-5)
        assert [a[name] for name in KEY] == pytest.approx(
            [b["answer"], b["p_clean"], b["p_knockout"], b["change_percent"]]
        )
        assert [b[name] for name in KEY] == [None] * 4
        assert (a["correct"], a["top_clean"], a["status"]) == (b["correct"], b["top_clean"], b["status"])
    row = own[4]
    layers = window_layers(row["layer"], 3, "center", model.n_layers)
    knockout = avflow.Knockout.parse(row["knockout"])
    assert row["logp_knockout"] == pytest.approx(
        answer_logp(model.hf, saying(prompt, top), knockout, layers)[0], abs=1e-4
    )


def test_prompts_that_share_walks_and_walks_that_share_a_prompt(model):
    prompts = [asked((7, 30), "0"), asked((9,), "1"), asked((8,), "2")]
    options = dict(knockouts=PATHS, window=3, select="all", target="own")
    together = avflow.sweep(model, prompts, **options).table
    alone = pa.concat_tables([avflow.sweep(model, p, **options).table.replace_schema_metadata(None) for p in prompts])
    many = avflow.sweep(model, prompts, **options, memory="1.1MB")
    assert max(info["walks"] for info in many.meta["prompts"]) > 1
    for table in (alone, many.table):
        assert table["answer"].to_pylist() == together["answer"].to_pylist()
        assert table["logp_knockout"].to_pylist() == pytest.approx(together["logp_knockout"].to_pylist(), abs=1e-4)
    assert len(set(together["answer"].to_pylist())) > 1  # each prompt has its own


def test_selecting_still_goes_by_the_key(model):
    prompt = asked()
    top = answer_logp(model.hf, prompt)[1]
    options = dict(knockouts=PATHS, window=3, target="own", correct_by="vocabulary")
    assert len(avflow.sweep(model, prompt, **options)) == 0
    right = avflow.sweep(model, saying(prompt, top), **options).table.to_pylist()
    assert right and all(row["p_clean"] == row["p_clean_key"] and row["answer"] == row["key"] for row in right)


def test_the_figures_the_page_and_the_folder_say_which(model, tmp_path):
    path = tiny_job.write(tmp_path / "s.jsonl", ["a", "bb", "ccc"])
    outcome = run(tiny_job.job(path, target="own"), tmp_path / "run", quiet=True)
    assert read_config(tmp_path / "run")["target"] == "own"
    table = avflow.read(tmp_path / "run").table
    assert table.equals(outcome.table) and target_of(table) == "own"
    _, ax = plots.flow(table)
    assert ax.get_ylabel() == "Change in answer probability (%), own answer"
    key = run(tiny_job.job(path), tmp_path / "key", quiet=True).table
    assert plots.flow(key)[1].get_ylabel() == "Change in answer probability (%)"
    assert [entry.get("own") for entry in flow_data(table, []) + flow_data(key, [])] == [True, None]
    with pytest.raises(InputError, match="rows of target='own' and of target='key'"):
        target_of(pa.concat_tables([table, key]))
    with pytest.raises(InputError, match="another configuration .target"):
        run(tiny_job.job(path), tmp_path / "run", quiet=True)


def test_tables_without_the_new_columns_are_read(model):
    table = avflow.sweep(model, asked(), PATHS, window=3, select="all").table
    old = table.drop_columns(["target", *KEY])
    again = checked(old)
    assert again.column_names == table.column_names and again["target"].to_pylist() == [None] * len(old)
    assert average_change(again).equals(average_change(table)) and target_of(again) == "key"


def test_a_target_that_is_none(model):
    with pytest.raises(InputError, match="target"):
        avflow.sweep(model, asked(), PATHS, target="top")
