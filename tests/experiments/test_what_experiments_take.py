"""Every public experiment takes what avflow.sweep takes, and says the same about what it cannot take."""

import csv
import functools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from demo_folder import demo
from demo_folder import model as demo_model
from tiny import decoder, text_prompt

import avflow
from avflow.data.prepare import as_prompt, as_prompts

PATH = "video->last"
# (model, given) -> the ids in the result, in order. What takes exactly one prompt is in ONE.
MANY = {
    "sweep": lambda m, x: ids(avflow.sweep(m, x, PATH, window=1, layers=[0], select="all")),
    "sweep_text": lambda m, x: ids(avflow.sweep_text(m, x, PATH, window=1, layers=[0], max_new_tokens=1)),
    "attention_share": lambda m, x: ids(avflow.attention_share(m, x, layers=[0])),
    "answer_lens": lambda m, x: ids(avflow.answer_lens(m, x, layers=[0])),
    "sinks": lambda m, x: ids(avflow.sinks(m, x, layers=[0], times=1.01)),
    "pathways": lambda m, x: ids(avflow.pathways(m, x, {"all->all": None}, random=0)),
}
ONE = {
    "attention_map": lambda m, x: [avflow.attention_map(m, x, layers=[0], bins=4).prompt],
    "mark_sinks": lambda m, x: [avflow.mark_sinks(m, x, [1]).id],
}
OTHERS = {
    "estimate": lambda m, x: avflow.estimate(m, x, avflow.SweepRequest(PATH, window=1, layers=[0])),
    "plan_eviction": lambda m, x: avflow.plan_eviction(m, x, "video", max_accuracy_drop=0.99, layers=[0]),
}
ALL = MANY | ONE | OTHERS


def ids(results: avflow.Results) -> list[str]:
    return list(dict.fromkeys(results.table["prompt"].to_pylist()))


def samples() -> list[avflow.Sample]:
    return [
        avflow.Sample(
            id=name, question="Which?", options=["red", "blue"], answer="A", video=f"{name}.mp4", task="color"
        )
        for name in ("one", "two")
    ]


@functools.cache
def model() -> avflow.Model:
    """A text decoder that reads a sample as a prompt of made-up tokens; what it says itself counts as right."""
    made = avflow.wrap(decoder("qwen2", layers=3))

    def prepare(sample: avflow.Sample) -> avflow.Prompt:
        prompt = text_prompt(64, id=sample.id, seed=len(sample.id) + ord(sample.id[0]))
        with torch.no_grad():
            prompt.answer_ids = [int(made.hf(prompt.input_ids[None]).logits[0, -1].argmax())]
        return prompt

    made.prepare = prepare
    return made


class Named(avflow.Sample):
    """A Sample of the user's own."""


def forms(count: int, folder: Path) -> dict:
    """The same samples in every form that is taken; an iterator is made when it is asked for."""
    chosen = samples()[:count]
    records = [json.loads(sample.to_json()) for sample in chosen]
    (folder / "s.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "s.json").write_text(json.dumps(records))
    pq.write_table(pa.Table.from_pylist(records), folder / "s.parquet")
    with open(folder / "s.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, sorted({key for r in records for key in r}))
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in records)
    out = {
        "list": lambda: chosen,
        "tuple": lambda: tuple(chosen),
        "generator": lambda: (sample for sample in chosen),
        "prompts": lambda: [model().prepare(s) for s in chosen],
        "mixed generator": lambda: (s if i % 2 else model().prepare(s) for i, s in enumerate(chosen)),
        "data set": lambda: avflow.data.read(folder / "s.jsonl"),
        "str": lambda: str(folder / "s.jsonl"),
        **{f"Path {kind}": lambda kind=kind: folder / f"s.{kind}" for kind in ("jsonl", "json", "parquet", "csv")},
    }
    if count == 1:
        out |= {"Sample": lambda: chosen[0], "Prompt": lambda: model().prepare(chosen[0])}
        out |= {"subclass": lambda: Named(**vars(chosen[0]))}
    return out


@pytest.mark.parametrize("name", [*MANY, *ONE])
def test_one_of_every_form(name, tmp_path):
    want = [samples()[0].id]
    for form, given in forms(1, tmp_path).items():
        assert ALL[name](model(), given()) == want, form


@pytest.mark.parametrize("name", MANY)
def test_several_in_every_form(name, tmp_path):
    want = [sample.id for sample in samples()]
    for form, given in forms(2, tmp_path).items():
        assert MANY[name](model(), given()) == want, form


def test_estimates_of_every_form(tmp_path):
    one = OTHERS["estimate"](model(), samples()[0])
    assert one["tokens"] == len(model().prepare(samples()[0])) and one["status"] == {PATH: "ok"}
    found = [OTHERS["estimate"](model(), given()) for given in forms(2, tmp_path).values()]
    assert all(f == found[0] for f in found) and found[0]["tokens"] > one["tokens"]
    parts = [OTHERS["estimate"](model(), sample) for sample in samples()]
    for column in ("tokens", "rows"):
        assert found[0][column] == sum(part[column] for part in parts)


def test_plans_of_every_form(tmp_path):
    """A plan goes through its prompts several times: what an iterator gives is kept."""
    want = OTHERS["plan_eviction"](model(), samples())
    assert want.data["prompts"] == 2 and want.plan.tried
    for form, given in forms(2, tmp_path).items():
        found = OTHERS["plan_eviction"](model(), given())
        assert found.steps == want.steps and found.table.equals(want.table), form
    assert OTHERS["plan_eviction"](model(), samples()[0]).data["prompts"] == 1


class _Broken(dict):
    """A mapping that is no dict of samples either."""


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "given, match",
    [
        (None, r"None \(NoneType\): pass avflow.Prompt or avflow.Sample"),
        ([], r"no prompts are given \(\[\] is empty\): pass"),
        ({"id": "a"}, r"\{'id': 'a'\} \(dict\): pass avflow.Prompt or avflow.Sample"),
        (_Broken(a=1), r"\(_Broken\): pass"),
        (7, r"7 \(int\): pass avflow.Prompt or avflow.Sample"),
        ([7], r"number 0 is 7 \(int\): pass avflow.Prompt"),
        ([{"id": "a"}], r"number 0 is .* \(dict\): pass avflow.Prompt"),
        (["samples.jsonl"], r"number 0 is 'samples.jsonl' \(str\): pass"),
        ("no/such/file.jsonl", r"no samples at 'no/such/file.jsonl': no such file"),
        (Path("no/such/file.csv"), r"no samples at 'no/such/file.csv': no such file"),
    ],
)
def test_what_is_not_taken(name, given, match):
    with pytest.raises(avflow.InputError, match=match):
        ALL[name](model(), given)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ONE])
def test_two_of_one_id(name):
    sample = samples()[0]
    for given in ([sample, sample], [sample, model().prepare(sample)], (s for s in (sample, sample))):
        with pytest.raises(avflow.InputError, match=f"two prompts have the id '{sample.id}': give each its own"):
            ALL[name](model(), given)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ONE])
def test_an_iterator_without_prompts(name):
    with pytest.raises(avflow.InputError, match="no prompts are given"):
        ALL[name](model(), iter(()))


@pytest.mark.parametrize("name", ONE)
def test_one_prompt_is_not_two(name):
    with pytest.raises(avflow.InputError, match="one prompt is looked at, 2 are given"):
        ONE[name](model(), samples())
    with pytest.raises(avflow.InputError, match="one prompt is looked at, several are given"):
        ONE[name](model(), iter(samples()))


def test_a_samples_file_and_a_model_of_its_own(tmp_path):
    """From file to rows with a real processor, and the same rows as from the prompts."""
    prompts = [demo_model().prepare(sample) for sample in avflow.Sample.read_jsonl(demo()["samples"])]
    want = avflow.attention_share(demo_model(), prompts, layers=[0])
    assert avflow.attention_share(demo_model(), demo()["samples"], layers=[0]).table.equals(want.table)
    assert len(ids(want)) == len(prompts) > 1


def test_samples_are_prepared_one_at_a_time_and_anew():
    """No more than one sample's media are held; a list serves two passes, an iterator is asked as it is used."""
    asked = []

    class Counting:
        def prepare(self, sample):
            asked.append(sample.id)
            return text_prompt(64, id=sample.id)

    chosen = samples()
    prompts = as_prompts(Counting(), chosen)
    assert asked == [] and prompts.count == 2
    for _ in range(2):
        for number, prompt in enumerate(prompts):
            assert prompt.id == chosen[number].id and asked[-1] == prompt.id
    assert len(asked) == 4
    taken = []
    lazy = as_prompts(Counting(), (taken.append(s.id) or s for s in chosen))
    assert taken == [] and lazy.count is None
    next(iter(lazy))
    assert taken == [chosen[0].id]
    twice = as_prompts(Counting(), iter(chosen), again=True)
    assert twice.count == 2 and [p.id for p in twice] == [p.id for p in twice]
    with pytest.raises(avflow.InputError, match="several"):
        before = len(asked)
        as_prompt(Counting(), iter(chosen))
    assert len(asked) == before  # refused before any media are read


def test_a_generator_of_prompts_is_swept_like_the_list():
    prompts = [text_prompt(64, id=str(i), seed=i) for i in range(3)]
    listed = avflow.sweep(model(), prompts, PATH, window=1, select="all")
    assert avflow.sweep(model(), iter(prompts), PATH, window=1, select="all").table.equals(listed.table)
