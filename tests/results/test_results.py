"""The result table, and the mean change with its confidence band."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from result_rows import row

from avflow.errors import InputError
from avflow.results.change import mean_change
from avflow.results.results import Results, read
from avflow.results.table import SCHEMA, one_width, select, table_from_rows, widths_of


def test_columns_and_types_are_the_schema_also_where_a_column_is_all_null():
    table = table_from_rows([row(change=None), row("b", change=None)])
    assert table.schema.remove_metadata() == SCHEMA
    assert table_from_rows([]).schema.remove_metadata() == SCHEMA
    assert table["change_percent"].null_count == 2


def test_token_ids_become_text():
    assert table_from_rows([row(top_clean=17)])["top_clean"].to_pylist() == ["17"]


@pytest.mark.parametrize(
    "broken, told",
    [
        ({k: v for k, v in row().items() if k != "status"}, "lacks ['status']"),
        ({**row(), "extra": 1}, "unknown columns ['extra']"),
        ({**row(), "layer": "seven"}, "'layer' must hold int32"),
    ],
)
def test_a_row_that_does_not_fit_is_named(broken, told):
    with pytest.raises(InputError) as error:
        table_from_rows([row(), broken])
    assert told in str(error.value)


def test_tuples_of_an_unknown_experiment():
    with pytest.raises(InputError, match="'heights' is none of sweep.*avflow.results.register"):
        Results.from_tuples("heights", [("a", 1)])


def test_save_and_read_keep_rows_and_meta(tmp_path):
    results = Results.from_rows([row(), row("b", change=None)], {"window": 7})
    path = results.save(tmp_path / "new" / "run")
    assert path.name == "rows.parquet"
    back = read(tmp_path / "new" / "run")
    assert back.table.to_pylist() == results.table.to_pylist()
    assert back.meta == {"window": 7, "finished": True}
    assert [p.name for p in path.parent.iterdir()] == ["rows.parquet"]  # no temporary file stays
    assert read(path).table.num_rows == 2


def test_read_says_what_is_missing_or_broken(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no rows.parquet"):
        read(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read(tmp_path)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), other)
    with pytest.raises(InputError, match="lacks the columns"):
        read(other)


def test_a_schedule_is_not_taken_for_a_damaged_table(tmp_path):
    schedule = tmp_path / "schedule.json"
    schedule.write_text("{}")
    with pytest.raises(InputError, match="no table of results: give a run folder") as told:
        read(schedule)
    assert "delete" not in str(told.value) and "anew" not in str(told.value)


def test_to_pandas_without_pandas_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # what an import of an absent package meets
    with pytest.raises(ImportError, match="pip install 'avflow"):
        Results.from_rows([row()]).to_pandas()


def test_to_pandas():
    pytest.importorskip("pandas")
    assert list(Results.from_rows([row()]).to_pandas().columns) == SCHEMA.names


def test_select():
    table = table_from_rows([row("a"), row("b", correct=False)])
    assert select(table, "correct")["prompt"].to_pylist() == ["a"]
    assert select(table, "wrong")["prompt"].to_pylist() == ["b"]
    assert select(table, "all").num_rows == 2
    with pytest.raises(InputError, match="'right'"):
        select(table, "right")


def test_mean_change_is_the_mean_over_samples():
    table = table_from_rows(
        [row("a", layer=0, change=-10.0), row("b", layer=0, change=-30.0), row("a", layer=1, change=4.0)]
        + [row("b", layer=1, change=None), row("a", knockout="audio->last", change=1.0)]
    )
    means = mean_change(table, resamples=200, interval="percentile")
    got = {(r["knockout"], r["layer"]): r for r in means.to_pylist()}
    assert got["video->question", 0]["mean"] == -20 and got["video->question", 0]["samples"] == 2
    assert got["video->question", 1]["mean"] == 4 and got["video->question", 1]["samples"] == 1
    assert got["video->question", 0]["low"] == -30 and got["video->question", 0]["high"] == -10
    assert got["audio->last", 0]["low"] is None and got["audio->last", 0]["high"] is None  # one sample has no band
    assert got["video->question", 1]["low"] is None


def test_a_percentile_band_is_the_bootstrap_over_whole_samples():
    rng = np.random.default_rng(3)
    values = rng.normal(-20, 8, (30, 4))  # [samples, layers]
    table = table_from_rows([row(f"s{s}", layer=c, change=values[s, c]) for s in range(30) for c in range(4)])
    asked = dict(resamples=500, interval="percentile")
    got = mean_change(table, seed=11, **asked)
    # The definition, a resample at a time, from the same draws.
    draws = np.random.default_rng(11).multinomial(30, np.full(30, 1 / 30), size=500)
    means = np.array([np.repeat(values, counts, axis=0).mean(0) for counts in draws])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(got["low"].to_numpy(), low)
    np.testing.assert_allclose(got["high"].to_numpy(), high)
    assert got.equals(mean_change(table, seed=11, **asked))
    assert not got.equals(mean_change(table, seed=12, **asked))
    # and near what the normal law gives
    expected = 2 * 1.96 * values.std(0) / np.sqrt(30)
    np.testing.assert_allclose(got["high"].to_numpy() - got["low"].to_numpy(), expected, rtol=0.2)


def test_the_order_of_rows_does_not_matter_for_the_means_and_holes_do_not_enter():
    rows = [row(f"s{s}", layer=layer, change=float(s - layer)) for s in range(5) for layer in range(3)]
    holed = rows + [row("hole", layer=1, change=None), row("inf", layer=2, change=float("inf"))]
    plain = mean_change(table_from_rows(rows), resamples=50).to_pylist()
    again = mean_change(table_from_rows(holed[::-1]), resamples=50).to_pylist()
    assert [r["mean"] for r in plain] == [r["mean"] for r in again]
    assert [r["samples"] for r in again] == [5, 5, 5]


def test_mean_change_refuses_what_makes_no_sense():
    with pytest.raises(InputError, match="confidence is 95"):
        mean_change(table_from_rows([row()]), confidence=95)
    with pytest.raises(InputError, match="resamples is 0"):
        mean_change(table_from_rows([row()]), resamples=0)
    assert mean_change(table_from_rows([])).num_rows == 0
    assert mean_change(table_from_rows([row("a", change=None), row("b", change=None)])).num_rows == 0


def test_widths_are_told_apart():
    table = table_from_rows([row(window=w, change=-10.0 * w) for w in (1, 3)])
    assert widths_of(table) == [1, 3]
    with pytest.raises(InputError, match=r"windows of \[1, 3\] layers"):
        mean_change(table)
    assert mean_change(one_width(table, 3))["mean"].to_pylist() == [-30.0]
    with pytest.raises(InputError, match="no window of 5 layers"):
        one_width(table, 5)
