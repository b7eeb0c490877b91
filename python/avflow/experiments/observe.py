"""Looks into a run: the model's own layers over one prompt, with an eye on attention and on hidden states."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from avflow_ext import AttentionProblem, Cut, Tokens

from ..errors import InputError, NumericError
from ..models.attention import attention, register
from ..models.base import Model
from ..models.compat import attention_name, attributes, kept_state
from ..prompts.prompt import Prompt
from ..walk.capture import Captured, capture
from ..walk.chunks import mlp_chunk
from ..walk.walk import in_chunks

OnAttention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], None]
OnHidden = Callable[[int, torch.Tensor], None]


def tokens_of(captured: Captured, group: torch.Tensor | None = None) -> Tokens:
    """The columns of a captured prompt; `group` int [n] takes the place of its groups."""
    columns = captured.columns
    return Tokens(
        order=torch.arange(len(columns)),
        group=torch.from_numpy(columns.group) if group is None else group,
        item=torch.from_numpy(columns.item),
    )


class _Call:
    """One layer's attention over all rows, shown to the observer before it runs."""

    def __init__(self, problem: AttentionProblem, layer: int, see: OnAttention | None) -> None:
        self.problem, self.layer, self.see = problem, layer, see

    def __call__(self, module, q, k, v, mask, scale):
        q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))  # [rows, heads or kv_heads, d]
        if self.see:
            self.see(self.layer, q, k, v, scale)
        return attention(q, k, v, self.problem, scale=scale).out[None]


@torch.no_grad()
def observe(
    model: Model,
    prompt: Prompt | Captured,
    on_attention: OnAttention | None = None,
    on_hidden: OnHidden | None = None,
    layers: Sequence[int] | None = None,
    cuts: Callable[[int], Sequence[Cut]] = lambda layer: (),
) -> Captured:
    """Runs the decoder layers once on a prompt, up to the last of `layers`.

    Args:
        on_attention: called in every layer as (layer, q [n, heads, d], k, v [n, kv_heads, d], scale).
        on_hidden: called after every layer as (layer, hidden [n, D]), before the final norm.
        layers: those that the observers are called for; None for all.
        cuts: what is cut in a layer; default: nothing, the clean run.

    Raises:
        NumericError: NaN or infinity after a layer; the message names prompt and layer.
    """
    captured = prompt if isinstance(prompt, Captured) else capture(model, prompt)
    wanted = set(range(model.n_layers)) if layers is None else set(layers)
    columns = tokens_of(captured)
    problem = None
    hidden = captured.hidden
    chunked = [in_chunks(layer.mlp, mlp_chunk(model)) for layer in model.layers if hasattr(layer, "mlp")]
    with attention_name(model.text_model, register()), attributes(chunked):
        for index, layer in enumerate(model.layers[: max(wanted) + 1]):
            see, here = on_attention if index in wanted else None, tuple(cuts(index))
            if problem is None or here != problem.cuts:
                problem = AttentionProblem(rows=columns, cuts=here)
            hidden = layer(
                hidden,
                attention_mask=None,
                position_embeddings=(captured.cos, captured.sin),
                avflow_call=_Call(problem, index, see),
            )
            hidden = hidden if isinstance(hidden, torch.Tensor) else hidden[0]
            if not bool(torch.isfinite(hidden).all()):
                raise NumericError(f"prompt {captured.prompt.id!r}: NaN or infinity after decoder layer {index}")
            if on_hidden and index in wanted:
                on_hidden(index, hidden[0])
    return captured


def predicting_rows(captured: Captured) -> torch.Tensor:
    """The last token and the answer tokens behind it, int64 [answer tokens]: row i predicts answer token i."""
    return torch.arange(captured.columns.n_prompt - 1, len(captured))


@torch.no_grad()
def with_generated(model: Model, prompt: Prompt, count: int) -> Prompt:
    """The prompt with `count` greedily generated tokens in its answer, and the one that follows them.

    The last of them is only predicted: a walk appends all but the last. Fewer where the model ends its answer.
    """
    if not hasattr(model.hf, "generate"):
        raise InputError(f"{type(model.hf).__name__} cannot generate: pass prompts with the answer_ids to look at")
    if prompt.inputs_embeds is not None:
        raise InputError(
            f"prompt {prompt.id!r} has inputs_embeds alone: generate from it yourself, and pass that as answer_ids"
        )
    inputs = dict(prompt.model_inputs or {"input_ids": prompt.input_ids[None]})
    inputs = {n: v.to(model.device) if isinstance(v, torch.Tensor) else v for n, v in inputs.items()}
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if prompt.position_ids is not None:
        positions = prompt.position_ids.to(model.device)
        if positions.dim() == 2:  # transformers wants text positions as a fourth row, ahead of the three
            text = torch.arange(positions.shape[1], device=positions.device)
            positions = torch.cat([text[None], positions])[:, None]  # [4, 1, N]
        else:
            positions = positions[None]
        inputs["position_ids"] = positions
    with kept_state(model.hf), attributes(model.family.quicker(model)):
        out = model.hf.generate(**inputs, max_new_tokens=count + 1, do_sample=False, num_beams=1)
    ids = out[0, len(prompt) :].tolist()
    return dataclasses.replace(prompt, answer_ids=ids, answer=model.text(ids), option_ids=None)
