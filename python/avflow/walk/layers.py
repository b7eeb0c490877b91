"""The one loop over the decoder's layers: whatever runs them one by one, runs them here.

A caller says what each layer's attention does (`call`), which rows join before it, and what looks at the result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError, NumericError, UnsupportedModelError
from ..models.attention import AttentionCall, bypassed, register
from ..models.base import Model
from ..models.compat import attention_name
from ..models.decoder_inputs import check_layer_arguments
from ..models.undoing import pre_hooked

if TYPE_CHECKING:
    from ..models.compat import AttentionModule

Tables = tuple[torch.Tensor, torch.Tensor]  # rotary cos and sin, [..., rows, d]


def run_layers(
    model: Model,
    start: torch.Tensor | list[torch.Tensor],
    tables: Tables,
    call: Callable[[int], AttentionCall],
    count: int | None = None,
    begin: int = 0,
    joins: Sequence[torch.Tensor] | None = None,
    saves: Sequence[torch.Tensor] | None = None,
    reads: Collection[int] = (),
    after: Callable[[int, torch.Tensor], None] | None = None,
    enter: Callable[[int, torch.Tensor], None] | None = None,
    shed: tuple[int, torch.Tensor, Tables] | None = None,
    deep: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Runs layers `begin` up to `count` (None: all) and returns the hidden states [1, rows, D] after the last of them.

    Waits for the device nowhere; within torch.no_grad().

    Args:
        start: hidden states [1, rows, D], as `layer_input` or `capture` gives them; before layer `begin`. Or a list of
            them alone: they are taken out of it, and nothing holds them while later layers run.
        tables: of all rows, those included that join later; a layer takes the first ones.
        call: layer -> what does that layer's attention. Asked for once a layer, right before it runs.
        joins: per layer int64 [n], rows that are copied to the end before it; None: none in any. In the layers `reads`
            numbers from the row count on are what was saved.
        saves: per layer int64 [n], rows that are saved before it, for later joins; None: none in any.
        shed: (layer, rows int64 [n] that alone go on into it, in this order, tables of the rows from then on).
        deep: what the decoder itself adds behind a layer: (layer, hidden [1, rows, D]) -> the next layer's input.
        after: called after every layer as (layer, hidden [1, rows, D]), once that is added.
        enter: called before every layer in the same way, once the rows that join there are in; it may write to them.

    Raises:
        UnsupportedModelError: a layer's attention did not go through its call; the message names what replaced it.
    """
    # Python's own evaluator moves an argument into the callee; with another in force, such as TorchDynamo's after
    # anything was compiled, the caller's stack holds it until the call returns: hence lists.
    hidden = start.pop() if isinstance(start, list) else start
    del start
    cos, sin = tables
    saved: list[torch.Tensor] = []  # [1, n, D] each
    with attention_name(model.text_model, register()):
        for index, layer in enumerate(islice(model.layers, begin, count), begin):
            if shed is not None and index == shed[0]:
                hidden, tables = hidden.index_select(1, shed[1]), shed[2]
                cos, sin = tables
            if saves is not None and len(saves[index]):
                saved.append(hidden.index_select(1, saves[index]))
            if joins is not None and len(joins[index]):
                source = torch.cat([hidden, *saved], 1) if index in reads else hidden
                hidden = torch.cat([hidden, source.index_select(1, joins[index])], 1)
                del source  # memory: no row is held twice while the layer runs
            if saved and index >= max(reads, default=-1):
                saved.clear()
            if enter is not None:
                enter(index, hidden)
            n = hidden.shape[1]
            counted = _Counted(call(index))
            try:
                # One name throughout: a second one would keep the last layer's rows alive while this layer runs.
                hidden = layer(
                    hidden,
                    attention_mask=None,  # the call knows who sees whom
                    position_embeddings=tables if n == cos.shape[-2] else (cos[..., :n, :], sin[..., :n, :]),
                    avflow_call=counted,
                )
            except (AttributeError, TypeError) as error:
                if counted.times:
                    raise
                raise UnsupportedModelError(
                    f"decoder layer {index} ({type(layer).__name__}) does not run on hidden states and rotary tables "
                    f"alone: {error}"
                ) from error
            if counted.times != 1:
                raise bypassed(layer, index, counted.times)
            hidden = hidden if isinstance(hidden, torch.Tensor) else hidden[0]  # some families' layers return tuples
            if deep is not None:
                hidden = deep(index, hidden)
            if after is not None:
                after(index, hidden)
    return hidden


class _Counted:
    """A layer's call, and how often it was asked for."""

    def __init__(self, call: AttentionCall) -> None:
        self.call, self.times = call, 0

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        self.times += 1
        return self.call(module, q, k, v, mask, scale)


class _Reached(Exception):
    """Leaves a forward once what we came for is in hand."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs


def _stop(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise _Reached(args, kwargs)


def arguments_of(module: torch.nn.Module, run: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Runs `run` until `module` is about to run, and gives the arguments that it would have had.

    Raises:
        InputError: `run` ends without it.
    """
    try:
        with pre_hooked(module, _stop, with_kwargs=True):
            run()
    except _Reached as reached:
        return reached.args, reached.kwargs
    raise InputError(f"the model's forward never reached {type(module).__name__}: is it of another family?")


def layer_input(
    model: Model, embeds: torch.Tensor, positions: torch.Tensor | None, tokens: int | None = None
) -> tuple[torch.Tensor, Tables]:
    """What the decoder's own forward gives its first layer: hidden states [1, rows, D] and rotary tables.

    Args:
        embeds: [1, rows, D]. positions: int64 [3, 1, rows] or [1, rows]; None: the decoder counts.
        tokens: how long the sequence is that the rows belong to; None: as many as rows.

    Raises:
        UnsupportedModelError: a decoder whose mask is not plain causal, or whose layers are given more than that.
    """
    # Without a mask transformers takes one-dimensional positions with gaps for several packed sequences.
    ones = torch.ones(1, embeds.shape[1] if tokens is None else tokens, dtype=torch.bool, device=embeds.device)
    with attention_name(model.text_model, register()):  # whose mask function makes no mask
        args, kwargs = arguments_of(
            model.layers[0],
            lambda: model.text_model(
                inputs_embeds=embeds, attention_mask=ones, position_ids=positions, use_cache=False
            ),
        )
    given = check_layer_arguments(model.layers[0], args, kwargs)
    return given["hidden_states"], given["position_embeddings"]


def check_finite(hidden: torch.Tensor, prompts: Sequence[tuple[str, int]], where: str) -> None:
    """Waits for the device. hidden: [1, rows, D]; prompts: id and rows of each, which stand first and in this order.

    Raises:
        NumericError: NaN or infinity in the rows of a prompt; the message names it.
    """
    at = 0
    for name, rows in prompts:
        if not bool(torch.isfinite(hidden[0, at : at + rows]).all()):
            raise NumericError(f"prompt {name!r}: NaN or infinity {where}")
        at += rows
