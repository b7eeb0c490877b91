"""Every experiment gives back Results, which are saved, read and named alike; 0.1's tables and folders still work."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from result_rows import row
from tiny import decoder, text_prompt

import avflow
from avflow.results import Results, mean_change, read, schemas, select
from avflow.results.table import table_from_rows, with_meta, write_table


@pytest.fixture(scope="module")
def made() -> dict[str, Results]:
    """A result of every experiment."""
    model, prompt = avflow.wrap(decoder("qwen2", layers=3)), text_prompt(64, id="a")
    prompt.option_ids = [7, 8]
    own = text_prompt(64, id="b")
    own.answer_ids = [int(model.hf(own.input_ids[None]).logits[0, -1].argmax())]
    return {
        "sweep": avflow.sweep(model, prompt, "video->last", window=1, select="all"),
        "sweep_text": avflow.sweep_text(model, prompt, "video->last", window=1, max_new_tokens=2),
        "attention_share": avflow.attention_share(model, prompt),
        "attention_map": avflow.attention_map(model, prompt, layers=[0, 2], bins=5).results(),
        "answer_lens": avflow.answer_lens(model, prompt),
        "token_lens": avflow.token_lens(model, prompt, "video", keep=2),
        "lens_shift": avflow.lens_shift(model, model, prompt),
        "sinks": avflow.sinks(model, prompt, times=1.01),
        "pathways": avflow.pathways(model, prompt, {"video->last": range(2)}, random=1),
        "patch": avflow.patch(model, prompt, "zero", "video", window=1, select="all"),
        "plan_eviction": avflow.plan_eviction(model, own, "video", max_accuracy_drop=0.5).results(),
    }


NAMES = [name for name in schemas.SCHEMAS if name != "plan"]  # the rows behind a plan come from a run folder only


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_read_back(name, made, tmp_path):
    results = made[name]
    assert isinstance(results, Results) and results.meta["experiment"] == name == results.experiment
    assert len(results) == results.table.num_rows > 0
    assert results.table.schema.remove_metadata() == schemas.SCHEMAS[name]
    results.save(tmp_path)
    back = avflow.read(tmp_path)
    assert back.table.equals(results.table) and back.meta == results.meta | {"finished": True}
    assert repr(back) == f"avflow.Results({name}, {len(results)} rows: {', '.join(schemas.SCHEMAS[name].names)})"
    assert pa.table(results).equals(results.table)  # by the Arrow protocol, as pandas and polars take it


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_another_experiment_is_not_taken_for_this_one(name, made, tmp_path):
    wrong = Results(made[name].table.drop_columns([schemas.SCHEMAS[name].names[-1]]), made[name].meta)
    with pytest.raises(avflow.InputError, match="lacks the columns"):
        wrong.save(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_to_pandas(name, made):
    pytest.importorskip("pandas")
    assert list(made[name].to_pandas().columns) == schemas.SCHEMAS[name].names


def test_one_name_means_one_type_in_every_table():
    """`token` is a text, `position` and `answer_token` are integers, probabilities and logs are float64."""
    types: dict[str, set] = {}
    for schema in schemas.SCHEMAS.values():
        for field in schema:
            types.setdefault(field.name, set()).add(str(field.type))
    assert {name: found for name, found in types.items() if len(found) > 1} == {}
    assert types["token"] == {"string"} and types["answer_token"] == types["position"] == {"int32"}
    floats = {name for name, found in types.items() if found & {"float", "halffloat"}}
    assert not floats and not {"probability", "mean_p", "text"} & types.keys()


def test_a_map_is_its_rows(made):
    model, prompt = avflow.wrap(decoder("qwen2", layers=3)), text_prompt(64, id="a")
    found = avflow.attention_map(model, prompt, layers=[0, 2], bins=5)
    rows = found.table.to_pylist()
    assert len(rows) == found.weight.size
    begins = found.starts.tolist()
    for r in rows:
        i, j = begins.index(r["row_position"]), begins.index(r["key_position"])
        assert r["share"] == found.weight[found.layers.index(r["layer"]), i, j]
        assert (r["row_group"], r["key_group"]) == (found.groups[i], found.groups[j])


def test_a_plan_has_its_table_and_a_file_of_it_has_none(tmp_path):
    model, own = avflow.wrap(decoder("qwen2", layers=3)), text_prompt(64, id="b")
    own.answer_ids = [int(model.hf(own.input_ids[None]).logits[0, -1].argmax())]
    schedule = avflow.plan_eviction(model, own, "video", max_accuracy_drop=0.5)
    assert schedule.table is schedule.plan.table
    assert schedule.results().meta["figures"] == schedule.figures
    schedule.save(tmp_path / "s.json")
    with pytest.raises(avflow.InputError, match="has no plan"):
        avflow.PlannedSchedule.load(tmp_path / "s.json").table  # noqa: B018


def test_an_experiment_of_a_plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(schemas, "SCHEMAS", dict(schemas.SCHEMAS))
    table, meta = pa.table({"prompt": ["a"], "score": [0.5]}), {"experiment": "mine"}
    Results(table, meta).save(tmp_path / "unknown")
    assert read(tmp_path / "unknown").table.equals(table)
    schemas.register("mine", pa.schema([("prompt", pa.string()), ("rank", pa.int32())]))
    with pytest.raises(avflow.InputError, match="lacks the columns \\['rank'\\]"):
        read(tmp_path / "unknown")
    with pytest.raises(avflow.InputError, match="choose another name"):
        schemas.register("sweep", table.schema)


OLD = {  # as avflow 0.1 wrote them
    "share": (
        {
            "prompt": "a",
            "task": "t",
            "layer": 1,
            "token": 2,
            "text": "B",
            "head": None,
            "group": "video",
            "share": 0.25,
        },
        {"answer_token": 2, "token": "B", "share": 0.25},
        "attention_share",
    ),
    "lens": (
        {"prompt": "a", "task": "t", "layer": 1, "token": "A", "token_id": 3, "kind": "answer"}
        | {"probability": 0.5, "logp": -0.5, "top": "A"},
        {"token": "A", "p": 0.5},
        "answer_lens",
    ),
    "sinks": (
        {"prompt": "a", "task": "t", "layer": 1, "token": 7, "group": "video", "item": 0, "place": 1}
        | {"norm": 8.0, "ratio": 16.0, "drawn": 0.5},
        {"position": 7, "drawn": 0.5},
        "sinks",
    ),
    "pathways": (
        {"prompt": "a", "task": "t", "run": "full", "edges_kept": 1.0, "correct": True, "p": 0.5, "logp": -0.5},
        {"run": "full", "p": 0.5},
        "pathways",
    ),
    "plan": (
        {"prompt": "a", "task": "t", "group": "video", "layer": 1, "tokens": 9, "logp_clean": -0.5, "logp": -1.0}
        | {"correct_clean": True, "correct": False},
        {"group": "video", "logp": -1.0},
        "plan",
    ),
}


def _old_folder(folder, what, finished):
    line = OLD[what][0]
    floats = {"share", "probability", "norm", "ratio", "drawn"} | ({"logp"} if what == "lens" else set())
    types = {name: pa.float32() for name in floats} | {"layer": pa.int32(), "head": pa.int32(), "place": pa.int32()}
    columns = {
        n: pa.array([v], types.get(n, pa.int32() if n == "token" and type(v) is int else None)) for n, v in line.items()
    }
    config = {"model": "m", "evict": ["video"]} if what == "plan" else {"model": "m", "experiment": what}
    (folder / "parts").mkdir(parents=True)
    (folder / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    record = {"id": "a", "status": "ok"}
    write_table(with_meta(pa.table(columns), {"record": record}), folder / "parts" / "a.parquet")
    if finished:
        write_table(with_meta(pa.table(columns), {"config": config, "parts": 1}), folder / "rows.parquet")
    return folder


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("what", OLD)
def test_folders_of_avflow_0_1_are_read_under_the_new_names(what, finished, tmp_path):
    results = read(_old_folder(tmp_path / "run", what, finished))
    _, want, name = OLD[what]
    assert results.meta["experiment"] == name and results.meta["finished"] is finished
    assert results.table.schema.remove_metadata() == schemas.SCHEMAS[name]
    got = results.table.to_pylist()[0]
    assert {key: got[key] for key in want} == want
    if finished:  # the file alone says it too
        assert read(tmp_path / "run" / "rows.parquet").table.equals(results.table)


def test_a_plan_table_of_avflow_0_1(tmp_path, made):
    old = made["plan_eviction"].table.rename_columns(
        ["mean_p" if n == "p" else n for n in schemas.SCHEMAS["plan_eviction"].names]
    )
    pq.write_table(with_meta(old, {"experiment": "plan_eviction"}), tmp_path / "plan.parquet")
    assert read(tmp_path / "plan.parquet").table.equals(made["plan_eviction"].table)


def test_results_answer_as_the_table_that_they_were_with_a_warning(made):
    results = made["attention_share"]
    table = results.table
    for old, want in {
        "column_names": table.column_names,
        "num_rows": table.num_rows,
        "schema": table.schema,
    }.items():
        with pytest.warns(DeprecationWarning, match=f"write .table.{old}") as caught:
            assert getattr(results, old) == want
        assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="write .table.to_pylist"):
        assert results.to_pylist() == table.to_pylist()
    with pytest.warns(DeprecationWarning, match=r"write .table\['layer'\]"):
        assert results["layer"].equals(table["layer"])
    with pytest.warns(DeprecationWarning):
        assert results.equals(made["attention_share"]) and not results.equals(made["answer_lens"].table)
    with pytest.warns(DeprecationWarning):
        assert results.select(["layer"]).equals(table.select(["layer"]))
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        results.colour  # noqa: B018


def test_which_is_select_with_a_warning():
    table = table_from_rows([row("a"), row("b", correct=False)])
    results = Results(table)
    for old, new in (
        (lambda: select(table, which="wrong"), select(table, select="wrong")),
        (lambda: results.select(which="wrong").table, results.select("wrong").table),
        (lambda: mean_change(table, which="wrong"), mean_change(table, select="wrong")),
        (lambda: results.mean_change(which="wrong"), results.mean_change(select="wrong")),
    ):
        with pytest.warns(DeprecationWarning, match="which= is now select=") as caught:
            assert old().equals(new)
        assert caught[0].filename == __file__
    assert mean_change(results, select="correct").equals(mean_change(table, select="correct"))
