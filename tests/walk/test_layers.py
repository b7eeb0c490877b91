"""The one loop over the decoder's layers: joins, tables, tuples, what looks at the result, and what is put back."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from living import NewTensors

import avflow
from avflow.models.attention import NAME
from avflow.walk.layers import arguments_of, check_finite, layer_input, run_layers

ROWS, LAYERS = 10, 4


class Plain:
    """Causal attention by torch; notes what it was given."""

    def __init__(self, seen: list, layer: int) -> None:
        self.seen, self.layer = seen, layer

    def __call__(self, module, q, k, v, mask, scale):
        assert mask is None and module.layer_idx == self.layer
        self.seen.append((self.layer, q.shape[2]))
        group = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(group, 1) for t in (k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return out.transpose(1, 2)


@pytest.fixture
def start(qwen3):
    ids = torch.arange(20, 20 + ROWS)[None]
    with torch.no_grad():
        return layer_input(qwen3, qwen3.text_model.embed_tokens(ids), None)


@pytest.fixture
def plain_states(qwen3):
    """transformers' own hidden states after every layer, before the last norm: [layers] of [1, rows, D]."""
    states = []
    handles = [layer.register_forward_hook(lambda _m, _a, out: states.append(out)) for layer in qwen3.layers]
    with torch.no_grad():
        qwen3.hf(torch.arange(20, 20 + ROWS)[None])
    for handle in handles:
        handle.remove()
    return states


@torch.no_grad()
def test_it_is_the_models_own_forward(qwen3, start, plain_states):
    seen, after = [], []
    hidden = run_layers(
        qwen3, *start, lambda layer: Plain(seen, layer), after=lambda layer, rows: after.append((layer, rows))
    )
    assert seen == [(layer, ROWS) for layer in range(LAYERS)]
    assert [layer for layer, _ in after] == list(range(LAYERS)) and after[-1][1] is hidden
    for (_, ours), theirs in zip(after, plain_states, strict=True):
        assert (ours - theirs).abs().max() < 1e-4


@torch.no_grad()
def test_it_ends_after_some_layers(qwen3, start, plain_states):
    seen = []
    hidden = run_layers(qwen3, *start, lambda layer: Plain(seen, layer), count=2)
    assert len(seen) == 2 and (hidden - plain_states[1]).abs().max() < 1e-4


@torch.no_grad()
def test_rows_join_before_their_layer_with_their_own_tables(qwen3, start):
    """Rows 2 and 3 are copied to the end before layer 1: their rotary tables are the last two, seen from there on."""
    hidden, (cos, sin) = start
    more = torch.tensor([2, 3])
    tables = tuple(torch.cat([t, t[:, more]], 1) for t in (cos, sin))
    none = torch.empty(0, dtype=torch.long)
    seen, given, states = [], [], []
    handles = [
        layer.register_forward_pre_hook(lambda _m, args, kw: given.append((args[0], kw)), with_kwargs=True)
        for layer in qwen3.layers
    ]
    run_layers(
        qwen3,
        hidden,
        tables,
        lambda layer: Plain(seen, layer),
        joins=[none, more, none, none],
        after=lambda layer, rows: states.append(rows),
    )
    for handle in handles:
        handle.remove()
    assert [rows for _, rows in seen] == [ROWS, ROWS + 2, ROWS + 2, ROWS + 2]
    assert torch.equal(given[1][0][:, ROWS:], states[0][:, more])
    for (rows, kwargs), (count, _) in zip(given, [(ROWS, 0), *[(ROWS + 2, 0)] * 3], strict=True):
        assert rows.shape[1] == count
        for table, whole in zip(kwargs["position_embeddings"], tables, strict=True):
            assert torch.equal(table, whole[:, :count])


@torch.no_grad()
def test_what_was_saved_comes_back_as_it_was(qwen3, start):
    """Rows 1 and 4 as they were before layer 1, and row 0 as it is, join before layer 3; then nothing saved is held."""
    hidden, (cos, sin) = start
    none, back = torch.empty(0, dtype=torch.long), torch.tensor([ROWS + 1, 0, ROWS])
    tables = tuple(torch.cat([t, t[:, [4, 0, 1]]], 1) for t in (cos, sin))
    given, states, held = [], [], []
    saved = NewTensors(lambda t: t.shape == (1, 2, hidden.shape[-1]))

    class Watched(Plain):
        def __init__(self, layer):
            super().__init__([], layer)

        def __call__(self, *args):
            held.append(len(saved()))
            return super().__call__(*args)

    handles = [
        layer.register_forward_pre_hook(lambda _m, args, kw: given.append(args[0]), with_kwargs=True)
        for layer in qwen3.layers
    ]
    run_layers(
        qwen3,
        hidden,
        tables,
        Watched,
        joins=[none, none, none, back],
        saves=[none, torch.tensor([1, 4]), none, none],
        reads={3},
        after=lambda layer, rows: states.append(rows),
    )
    for handle in handles:
        handle.remove()
    expected = torch.stack([states[0][0, 4], states[2][0, 0], states[0][0, 1]])
    assert torch.equal(given[3][0, ROWS:], expected) and torch.equal(given[3][:, :ROWS], states[2])
    assert held == [0, 1, 1, 0]


@torch.no_grad()
def test_layers_that_return_tuples(qwen3, start, monkeypatch):
    wanted = run_layers(qwen3, *start, lambda layer: Plain([], layer))
    for layer in qwen3.layers:
        monkeypatch.setattr(layer, "forward", lambda *a, run=layer.forward, **kw: (run(*a, **kw), "weights"))
    assert torch.equal(run_layers(qwen3, *start, lambda layer: Plain([], layer)), wanted)


@torch.no_grad()
def test_rows_are_freed_once_others_replace_them(qwen3, start):
    """A walk's rows are most of its memory: where rows join, those from before are gone while the layer runs."""
    before: list[weakref.ref] = []

    class Watched(Plain):
        def __call__(self, *args):
            assert all(old() is None for old in before), f"rows from before layer {self.layer} are still held"
            return super().__call__(*args)

    joins = [torch.tensor([layer]) for layer in range(LAYERS)]
    joins[2] = torch.tensor([ROWS + 2])  # what was saved before layer 0, where ROWS and two more rows are there
    saves = [torch.tensor([3]), *[torch.empty(0, dtype=torch.long)] * (LAYERS - 1)]
    hidden, (cos, sin) = start
    tables = tuple(torch.cat([t, t[:, :LAYERS]], 1) for t in (cos, sin))
    run_layers(
        qwen3,
        hidden,
        tables,
        lambda layer: Watched([], layer),
        joins=joins,
        saves=saves,
        reads={2},
        after=lambda layer, rows: before.append(weakref.ref(rows)),
    )
    assert len(before) == LAYERS


@torch.no_grad()
@pytest.mark.parametrize("where", ["call", "after"])
def test_the_models_attention_is_put_back(qwen3, start, where):
    before = qwen3.config._attn_implementation
    inside = []

    def fail(*_):
        inside.append(qwen3.config._attn_implementation)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run_layers(
            qwen3,
            *start,
            fail if where == "call" else lambda layer: Plain([], layer),
            after=fail if where == "after" else None,
        )
    assert inside == [NAME] and qwen3.config._attn_implementation == before != NAME


def test_arguments_of_a_module_that_is_not_reached(qwen3):
    with pytest.raises(avflow.InputError, match="never reached Linear: is it of another family"):
        arguments_of(qwen3.lm_head, lambda: None)
    assert not qwen3.lm_head._forward_pre_hooks


@pytest.mark.parametrize("row, name", [(0, "a"), (2, "a"), (3, "b")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_prompt_with_nan_is_named(row, name, value):
    hidden = torch.zeros(1, 7, 4)
    hidden[0, row, 1] = value
    with pytest.raises(avflow.NumericError, match=f"prompt '{name}': NaN or infinity after decoder layer 5"):
        check_finite(hidden, [("a", 3), ("b", 2)], "after decoder layer 5")


def test_rows_behind_the_prompts_are_not_looked_at():
    hidden = torch.zeros(1, 7, 4)
    hidden[0, 5:] = float("nan")
    check_finite(hidden, [("a", 3), ("b", 2)], "anywhere")


def test_there_is_one_loop():
    """Nothing else in the package runs decoder layers one by one."""
    package = Path(avflow.__file__).parent
    assert [p.name for p in package.rglob("*.py") if "avflow_call=" in p.read_text()] == ["layers.py"]
