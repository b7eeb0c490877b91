"""Shares, lens, maps and sinks of the clean run, against transformers' own eager attention and hidden states."""

import numpy as np
import pytest
import torch
from tiny import av_prompt, decoder, text_prompt, thinker

import avflow
from avflow.models.compat import attention_name, find_text_model, kept_state

CASES = ("interleaved", "separate", "text")


def _case(name: str, **more):
    if name == "text":
        return avflow.wrap(decoder("qwen3", layers=3)), text_prompt(64, **more)
    return avflow.wrap(thinker(layers=3)), av_prompt(name, **more)


@torch.no_grad()
def _eager(model, prompt):
    """attentions [layers, heads, n, n], hidden after each layer [layers, n, D] before the final norm, logits [n, V]."""
    extra = torch.tensor(prompt.answer_ids[:-1], dtype=torch.long)
    inputs = dict(prompt.model_inputs or {})
    inputs["input_ids"] = torch.cat([prompt.input_ids, extra])[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    hidden = []
    handles = [
        layer.register_forward_hook(lambda _m, _a, out: hidden.append(out if torch.is_tensor(out) else out[0]))
        for layer in model.layers
    ]
    try:
        with kept_state(model.hf), attention_name(find_text_model(model.hf), "eager"):
            out = model.hf(**inputs, use_cache=False, output_attentions=True)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(out.attentions)[:, 0], torch.cat(hidden), out.logits[0]


def _table(table, prompt, model, n_tokens, heads=None):
    """share as [layers, tokens, heads, groups] with zeros for groups that do not occur."""
    shape = (model.n_layers, n_tokens, heads or 1, len(model.groups))
    out = torch.full(shape, torch.nan)
    for row in table.table.to_pylist():
        assert row["prompt"] == prompt.id and row["task"] == prompt.task
        out[row["layer"], row["answer_token"], row["head"] or 0, model.groups[row["group"]]] = row["share"]
    return out


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_share_is_the_row_sum_of_eager_attention(name, heads):
    model, prompt = _case(name, answer_ids=(7, 300, 41))
    attention, _, _ = _eager(model, prompt)  # [layers, heads, n, n]
    found = avflow.attention_share(model, [prompt], tokens="answer", heads=heads)
    got = _table(found, prompt, model, 3, model.n_heads if heads else None)
    group = model.groups.ids([*prompt.groups, "answer", "answer"])
    rows = torch.arange(3) + len(prompt) - 1
    for g in range(len(model.groups)):
        mine = torch.from_numpy(group == g)
        want = attention[:, :, rows][..., mine].sum(-1).transpose(1, 2)  # [layers, tokens, heads]
        want = want if heads else want.mean(-1, keepdim=True)
        if not mine.any():
            assert got[..., g].isnan().all()
            continue
        assert (got[..., g] - want).abs().max() <= 1e-5
    assert (got.nansum(-1) - 1).abs().max() <= 1e-5
    assert got[..., model.groups["last"]].nan_to_num().max() > 0.01  # not all of it on one group


def test_the_share_of_the_last_token_alone_and_of_some_layers():
    model, prompt = _case("interleaved")
    whole = avflow.attention_share(model, prompt).table.to_pylist()
    part = avflow.attention_share(model, prompt, layers=[1]).table.to_pylist()
    assert {r["answer_token"] for r in whole} == {0} and {r["token"] for r in whole} == {""}
    assert part == [r for r in whole if r["layer"] == 1] and part


def test_shares_of_generated_tokens():
    model, prompt = _case("separate")
    with torch.no_grad(), kept_state(model.hf):
        ids = model.hf.generate(**prompt.model_inputs, max_new_tokens=4, do_sample=False)[0, len(prompt) :].tolist()
    made = avflow.attention_share(model, prompt, tokens="answer", generate=3).table
    given = avflow.attention_share(model, _case("separate", answer_ids=tuple(ids))[1], tokens="answer").table
    assert made.equals(given) and set(made["answer_token"].to_pylist()) == {0, 1, 2, 3}
    assert made["token"].to_pylist()[-1] == str(ids[2])


@pytest.mark.parametrize("name", CASES)
def test_the_lens_reads_hidden_states_through_norm_and_head(name):
    model, prompt = _case(name)
    prompt.option_ids = [3, 7, 11]
    _, hidden, logits = _eager(model, prompt)
    with torch.no_grad():
        want = torch.log_softmax(model.lm_head(model.norm(hidden[:, len(prompt) - 1])).float(), -1)  # [layers, V]
    assert torch.allclose(want[-1], torch.log_softmax(logits[len(prompt) - 1], -1), atol=1e-4)
    rows = avflow.answer_lens(model, prompt).table.to_pylist()
    assert len(rows) == 3 * model.n_layers
    for row in rows:
        assert abs(row["logp"] - float(want[row["layer"], row["token_id"]])) <= 1e-4
        assert row["p"] == pytest.approx(np.exp(row["logp"]), rel=1e-5)
        assert row["kind"] == ("true option" if row["token_id"] == 7 else "false option")
        assert row["top"] == str(int(want[row["layer"]].argmax()))


def test_the_lens_of_an_open_answer():
    model, prompt = _case("text", answer_ids=(9, 4))
    rows = avflow.answer_lens(model, prompt, layers=2).table.to_pylist()
    assert [(r["layer"], r["token_id"], r["kind"]) for r in rows] == [(2, 9, "answer")]


@pytest.mark.parametrize("bins", [1, 7, 64, 10**6])
def test_a_pooled_map_is_the_pooled_eager_matrix(bins):
    model, prompt = _case("interleaved")
    attention, _, _ = _eager(model, prompt)
    found = avflow.attention_map(model, prompt, layers=[0, 2], bins=bins)
    n, count = len(prompt), min(bins, len(prompt))
    assert found.weight.shape == (2, count, count) and found.starts[-1] == n and len(found.groups) == count
    pool = torch.zeros(count, n)
    for i, (a, b) in enumerate(zip(found.starts, found.starts[1:], strict=False)):
        pool[i, a:b] = 1
    want = pool @ attention[[0, 2]].mean(1) @ pool.T / pool.sum(1)[:, None]
    assert np.abs(found.weight - want.numpy()).max() <= 1e-5
    assert np.abs(found.weight.sum(-1) - 1).max() <= 1e-5


def test_a_map_with_given_boundaries():
    model, prompt = _case("text")
    found = avflow.attention_map(model, prompt, layers=1, boundaries=[0, 3, 9])
    assert found.starts.tolist() == [0, 3, 9, len(prompt)] and found.weight.shape == (1, 3, 3)
    assert found.weight[0, 0, 1] == 0  # the future
    with pytest.raises(avflow.InputError, match="increasing"):
        avflow.attention_map(model, prompt, layers=1, boundaries=[0, 9, 9])


def _with_sink(model, prompt, at: int) -> torch.Tensor:
    """Embeddings in which token `at` is 1000 times longer."""
    with torch.no_grad():
        embeds = model.hf.get_input_embeddings()(prompt.input_ids)
    embeds[at] *= 1000
    return embeds


def test_sinks_are_found_marked_and_cut():
    model, text = _case("text")
    at = text.groups.index("video") + 2
    prompt = avflow.Prompt(
        inputs_embeds=_with_sink(model, text, at), groups=text.groups, items=text.items, answer_ids=[7], id="s"
    )
    found = avflow.sinks(model, prompt, layers=[0], times=4.0).table.to_pylist()
    assert [(r["position"], r["group"], r["item"]) for r in found] == [(at, "video", text.items[at])]
    first = text.items.index(text.items[at])
    assert found[0]["place"] == at - first and found[0]["ratio"] > 4
    marked = avflow.mark_sinks(model, prompt, [at])
    assert marked.groups[at] == "sink" and prompt.groups[at] == "video"
    share = {r["group"]: r["share"] for r in avflow.attention_share(model, marked, layers=0).table.to_pylist()}
    before = {r["group"]: r["share"] for r in avflow.attention_share(model, prompt, layers=0).table.to_pylist()}
    assert share["sink"] + share["video"] == pytest.approx(before["video"], abs=1e-5)
    rows = avflow.sweep(
        model, [marked], knockouts=["sink->last", "video->last"], window=1, select="all"
    ).table.to_pylist()
    assert any(abs(r["logp_knockout"] - r["logp_clean"]) > 1e-6 for r in rows if r["knockout"] == "sink->last")
    assert avflow.sinks(model, prompt, layers=[0], times=1e6).table.num_rows == 0


@pytest.mark.parametrize("name", CASES)
def test_what_a_sink_draws_is_the_last_tokens_eager_attention(name):
    model, prompt = _case(name)
    attention, _, _ = _eager(model, prompt)
    rows = avflow.sinks(model, prompt, times=1.01, among="video").table.to_pylist()
    assert rows
    for row in rows:
        want = float(attention[row["layer"], :, len(prompt) - 1, row["position"]].mean())
        assert row["drawn"] == pytest.approx(want, abs=1e-5)


def test_bad_input():
    model, prompt = _case("text")
    with pytest.raises(avflow.InputError, match="out of range"):
        avflow.attention_share(model, prompt, layers=[9])
    with pytest.raises(avflow.InputError, match="no prompt"):
        avflow.answer_lens(model, [])
    with pytest.raises(avflow.InputError, match="two prompts have the id"):
        avflow.attention_share(model, [prompt, prompt])
    with pytest.raises(avflow.InputError, match="tokens="):
        avflow.attention_share(model, prompt, generate=2)
    with pytest.raises(avflow.InputError, match="no token of 'image'"):
        avflow.sinks(model, prompt, among="image")
    with pytest.raises(avflow.InputError, match="cannot be a sink"):
        avflow.mark_sinks(model, prompt, [len(prompt) - 1])
    with torch.no_grad():
        list(model.layers)[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(avflow.NumericError, match="after decoder layer 1"):
        avflow.attention_share(model, prompt)
