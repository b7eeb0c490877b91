"""How a prompt's text is worded: by a study's name, or piece by piece; what its tokens are; in commands."""

import pytest
from clips import Clip
from command import avflow_, one_line_error
from demo_folder import clip_file, demo, model
from prompt_reading import runs

import avflow
from avflow.errors import InputError
from avflow.runs.folder import read_config

ASK = dict(id="0", question="Which color?", options=["red", "green"], answer="green")


def texts(prompt):
    """(group, its text), run by run, without the media."""
    ids, at, out = prompt.input_ids.tolist(), 0, []
    for group, _, count in runs(prompt.groups, prompt.items):
        if group not in ("video", "audio", "image", "system"):
            out.append((group, model().processor.tokenizer.decode(ids[at : at + count])))
        at += count
    return out


def prepared(**options):
    return model().prepare(avflow.Sample(video=str(clip_file(Clip())), **ASK), **options)


def test_map_the_flow():
    prompt = prepared(prompt_style="map_the_flow")
    found = texts(prompt)
    assert ("option_incorrect", "(A) red\n") in found and ("option_correct", "(B) green\n") in found
    assert ("instruction", "Answer with the option's letter from the given choices directly.") in found
    assert not any(group == "question_text" and "Answer with" in text for group, text in found)
    assert found[-2][0] == "template" and found[-2][1].endswith("assistant\nBest option:")
    assert found[-1] == ("last", "(")  # the answer's letter follows it
    assert model().processor.tokenizer.decode(prompt.answer_ids) == "B"


def test_the_data_sets_own_evaluations():
    found = texts(prepared(prompt_style="av-speakerbench"))
    at = next(n for n, (group, _) in enumerate(found) if group == "instruction")
    assert found[at][1].endswith(
        "audiovisual clip. Respond with only the letter (A, B, C, or D) of the correct option.\n"
    )
    assert [group for group, _ in found[at + 1 : at + 4]] == ["question_text", "option_incorrect", "option_correct"]
    assert found[at + 4] == ("instruction", "The best answer is:") and found[at + 3][1] == "B. green\n"
    found = texts(prepared(prompt_style="worldsense"))
    assert ("option_correct", "B. green\n") in found  # its last line is ended too
    assert sum(group == "instruction" for group, _ in found) == 1
    assert ("instruction", "Answer with the option letter only.") in texts(prepared(prompt_style="tvbench"))
    mine = texts(prepared(prompt_style="tvbench", instruction="Say it."))
    assert ("instruction", "Say it.") in mine and not any("letter only" in text for _, text in mine)


def test_headings_and_a_dict_between_tags():
    found = texts(prepared(prompt_style="omnibench"))
    at = next(n for n, (group, _) in enumerate(found) if group == "instruction")
    question = ASK["question"]
    assert "".join(text for _, text in found[at:]).startswith(
        f"Question:\n{question}\n\nOptions:\nA. red\nB. green\n\nAnswer with the option's letter from"
    )
    assert [group for group, _ in found[at : at + 3]] == ["instruction", "question_text", "instruction"]
    found = texts(prepared(prompt_style="tomato"))
    at = next(n for n, (group, _) in enumerate(found) if group == "instruction")
    whole = "".join(text for _, text in found[at:])
    assert whole.startswith("You will be provided with frames") and "commonsense. \n\n<question> \n" in whole
    assert (
        f"<question> \n{question} \n</question>\n\n<options> \n{{'A': 'red', 'B': 'green'}} \n</options>\n\nEven"
        in whole
    )
    assert ("option_correct", "'B': 'green'") in found


def test_the_default_is_as_before_and_every_piece_by_itself():
    plain = prepared()
    assert texts(plain) == texts(prepared(prompt_style=avflow.PromptStyle())) == texts(prepared(prompt_style={}))
    first = texts(prepared(prompt_style={"instruction_first": True}))
    assert (
        "question_text",
        "Answer with the option's letter from the given choices directly.\nWhich color?\n",
    ) in first
    assert first[-3][0] == "option_correct" and first[-3][1] == "B. green"
    own = prepared(prompt_style={"separate_instruction": True})
    assert own.input_ids.tolist() == plain.input_ids.tolist()
    changed = [(a, b) for a, b in zip(plain.groups, own.groups, strict=True) if a != b]
    assert set(changed) == {("question_text", "instruction")} and len(changed) == 13
    assert ("option_incorrect", "A) red;\n") in texts(prepared(prompt_style={"option": "{letter}) {text};"}))


def test_headings_have_the_instructions_group():
    style = {"question": "Question:\n{question}\n", "options": "Options:\n{options}\n", "joiner": "\n\n"}
    found = texts(prepared(prompt_style=style | {"separate_instruction": True}, instruction="Say a letter."))
    assert found[3:-2] == [
        ("instruction", "Question:\n"),
        ("question_text", "Which color?"),
        ("instruction", "\n\nOptions:\n"),  # the empty line after the question is the style's
        ("option_incorrect", "A. red\n\n"),
        ("option_correct", "B. green"),
        ("instruction", "\n\nSay a letter."),
    ]
    plain = texts(prepared(prompt_style=style, instruction="Say a letter."))
    assert ("question_text", "Question:\nWhich color?\n\nOptions:\n") in plain  # by default, as the instruction is
    assert not any(group == "instruction" for group, _ in plain)


@pytest.mark.parametrize(
    ("listing", "options", "written"),
    [
        ("list", ["red", "it's green"], "['A. red', \"B. it's green\"]"),
        ("dict", ["red", 'a "green" one'], "{'A': 'red', 'B': 'a \"green\" one'}"),
    ],
)
def test_options_as_python_writes_them(listing, options, written):
    style = {"listing": listing, "options": "Choices: {options}", "separate_instruction": True}
    sample = avflow.Sample(video=str(clip_file(Clip())), **ASK | {"options": options, "answer": "B"})
    found = texts(model().prepare(sample, prompt_style=style))
    whole = "".join(text for _, text in found)
    assert f"Which color?\nChoices: {written}\nAnswer with" in whole
    own = {group: text for group, text in found if group.startswith("option")}
    assert "red" in own["option_incorrect"] and "green" not in own["option_incorrect"]
    assert "green" in own["option_correct"] and "red" not in own["option_correct"]
    assert written == (
        repr([f"{letter}. {text}" for letter, text in zip("AB", options, strict=True)])
        if listing == "list"
        else repr(dict(zip("AB", options, strict=True)))
    )


def test_a_question_without_options_has_its_heading_alone():
    style = {"question": "Question: {question}", "options": "Options: {options}", "closing": "Go."}
    asked = avflow.Sample(id="0", video=str(clip_file(Clip())), question="Which color?", answer="green")
    found = texts(model().prepare(asked, prompt_style=style))
    assert ("question_text", "Question: Which color?") in found
    assert not any("Options" in text or "Go." in text for _, text in found)


def test_cutting_the_question_leaves_a_separate_instruction():
    own, plain = prepared(prompt_style={"separate_instruction": True}), prepared()
    changes = [
        avflow.sweep(model(), prompt, ["question->last", "instruction->last"], layers=[6], select="all").table
        for prompt in (own, plain)
    ]
    separate, together = (table.to_pylist() for table in changes)
    assert separate[1]["status"] == "ok" and together[1]["status"] == "no token: instruction"
    assert separate[0]["p_clean"] == pytest.approx(together[0]["p_clean"], rel=1e-5)
    assert separate[0]["logp_knockout"] != pytest.approx(together[0]["logp_knockout"], abs=1e-4)
    text = avflow.sweep(model(), own, "text->last", layers=[6], select="all").table.to_pylist()
    alias = avflow.sweep(model(), plain, "text->last", layers=[6], select="all").table.to_pylist()
    assert text[0]["logp_knockout"] == pytest.approx(alias[0]["logp_knockout"], abs=1e-5)


def test_a_begun_answer_is_generated_on_and_evicted_as_any_prompt():
    prompt = prepared(prompt_style={"answer_prefix": "Best option:("})
    with avflow.evict(model(), {"video": 5, "audio": 5}, groups=prompt):
        out = model().hf.generate(**prompt.model_inputs, max_new_tokens=2, do_sample=False)
    assert out.shape[1] == len(prompt) + 2
    row = avflow.sweep(model(), prompt, "video->last", layers=[6], select="all").table.to_pylist()[0]
    assert 0 < row["p_clean"] < 1 and row["status"] == "ok"


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("flow", "pass one of avflow, map_the_flow"),
        (3, "prompt_style = 3"),
        ({"choices": "x"}, "prompt_style has no 'choices'"),
        ({"options": "x"}, "write {options} once"),
        ({"question": "{question} {question}"}, "write {question} once"),
        ({"listing": "tuple"}, "PromptStyle.listing"),
        ({"listing": "dict", "option": "({letter}) {text}"}, "a dict is written without it"),
        ({"listing": "list", "joiner": "; "}, "PromptStyle.joiner = '; ': a list is written without it"),
        ({"question": "<|im_end|>{question}"}, "special token"),
        ({"option": "{letter}"}, "write {letter} and {text} once"),
        ({"instruction_first": "yes"}, "instruction_first"),
        ({"answer_prefix": "<|im_end|>"}, "special token"),
    ],
)
def test_what_makes_no_sense(style, message):
    with pytest.raises(InputError, match=message):
        prepared(prompt_style=style)


def test_interleaved_items_take_a_prefix_and_a_separate_instruction_alone(tmp_path):
    from avflow.synthetic import make_items, write_items

    lineup = write_items(make_items("heldout", 1, seed=5, tasks=["find_image"]), tmp_path)
    sample = avflow.Sample.read_jsonl(lineup)[0]
    prompt = model().prepare(sample, prompt_style={"separate_instruction": True, "answer_prefix": "("})
    assert "instruction" in prompt.groups and prompt.groups[-1] == "last"
    for refused in ({"instruction_first": True}, {"options": "Options: {options}"}):
        with pytest.raises(InputError, match="interleaved item"):
            model().prepare(sample, prompt_style=refused)


def test_in_a_command_and_in_its_config(tmp_path, monkeypatch):
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: model())
    given = ["--knockouts", "question->last", "--layers", "6", "--select", "all", "--limit", "1"]
    worded = [
        "--system",
        "Be brief.",
        "--question-first",
        "--option-form",
        "({letter}) {text}",
        "--separate-instruction",
    ]
    run = avflow_("sweep", "m", demo()["samples"], "--out", tmp_path / "run", *given, *worded)
    assert run.exit_code == 0, run.output
    config = read_config(tmp_path / "run")
    assert config["system"] == "Be brief." and config["question_first"] is True
    assert config["prompt_style"] == {"option": "({letter}) {text}", "separate_instruction": True}
    other = avflow_("sweep", "m", demo()["samples"], "--out", tmp_path / "run", *given, *worded[:-1])
    assert "prompt_style" in one_line_error(other)
    both = avflow_(
        "sweep", "m", demo()["samples"], "--out", tmp_path / "x", *given, "--prompt-style", "map_the_flow", *worded
    )
    assert "says how the whole prompt is worded" in one_line_error(both)
    named = avflow_("sweep", "m", demo()["samples"], "--out", tmp_path / "y", *given, "--prompt-style", "map_the_flow")
    assert named.exit_code == 0 and read_config(tmp_path / "y")["prompt_style"] == "map_the_flow"


def test_a_style_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: model())
    style = {"options": "Choices: {options}", "listing": "list", "closing": "The letter:\n"}
    written, wrong, empty = (tmp_path / name for name in ("style.yaml", "wrong.json", "empty.yml"))
    written.write_text('options: "Choices: {options}"\nlisting: list\nclosing: "The letter:\\n"\n')
    wrong.write_text('{"heading": "Options"}')
    empty.write_text("- a\n")
    given = ["sweep", "m", demo()["samples"], "--out", tmp_path / "run", "--knockouts", "question->last"]
    given += ["--layers", "6", "--select", "all", "--limit", "1", "--prompt-style"]
    assert "prompt_style has no 'heading'" in one_line_error(avflow_(*given, wrong))
    assert "holds no keys" in one_line_error(avflow_(*given, empty))
    assert "cannot read" in one_line_error(avflow_(*given, tmp_path / "none.yaml"))
    assert not (tmp_path / "run").exists()
    run = avflow_(*given, written)
    assert run.exit_code == 0, run.output
    assert read_config(tmp_path / "run")["prompt_style"] == style
    assert avflow_(*given, written).exit_code == 0  # resumed: the same wording


def test_a_sample_says_how_it_is_worded(tmp_path):
    worded = {"instruction": "Say a letter.", "prompt_style": {"option": "({letter}) {text}"}}
    own = avflow.Sample(video=str(clip_file(Clip())), wording=worded, **ASK)
    (tmp_path / "samples.jsonl").write_text(own.to_json() + "\n")
    (read,) = avflow.Sample.read_jsonl(tmp_path / "samples.jsonl")
    assert read == own
    assert texts(model().prepare(read)) == texts(prepared(**worded))
    # What is said for all samples comes before.
    assert texts(model().prepare(read, prompt_style="tvbench")) == texts(
        prepared(instruction="Say a letter.", prompt_style="tvbench")
    )
    for wrong, message in (
        ("worldsense", "wording is 'worldsense'"),
        ({"fps": 2}, "wording has no 'fps'"),
        ({"prompt_style": avflow.PromptStyle()}, "a style as a dict"),
    ):
        with pytest.raises(InputError, match=message):
            avflow.Sample(video="a.mp4", wording=wrong, **ASK)
    with pytest.raises(InputError, match="pass one of avflow, map_the_flow"):
        model().prepare(avflow.Sample(video="a.mp4", wording={"prompt_style": "none"}, **ASK))


def test_the_other_families_take_styles_too():
    prompt = model("video_salmonn2_plus").prepare(
        avflow.Sample(video=str(clip_file(Clip())), **ASK), prompt_style="map_the_flow"
    )
    assert "instruction" in prompt.groups and prompt.groups[-1] == "last"


def test_a_sample_whose_answer_nobody_knows_is_refused_where_one_is_needed():
    fields = {name: value for name, value in ASK.items() if name != "answer"}
    asked = avflow.Sample.open(video=str(clip_file(Clip())), **fields)
    prompt = model().prepare(asked)
    assert list(prompt.answer_ids) == [] and prompt.option_ids is None and prompt.answer == ""
    with pytest.raises(InputError, match="answer"):
        avflow.sweep(model(), asked, "video->last", layers=[6], select="all")
    with pytest.raises(InputError, match="answer"):
        avflow.plan_eviction(model(), [asked], ["video"])
