"""States that are put in the place of others while a walk runs: of other rows, of a value, or moved by a vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from ..errors import UnsupportedModelError
from ..models.base import Model
from ..uploads import upload_lists
from .row_wise import Patch

# The output of a decoder layer [D]; of its attention before the output matrix [heads, d]; of its MLP [D].
Part = Literal["residual", "attention", "mlp"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, eq=False)
class Edit:
    """What happens to some rows of one part of one layer.

    Attributes:
        rows: int64 [n], rows of the walk. source: int64 [n], the rows whose states they take; None: `value`'s.
        value: [D] or [heads, d] for all rows, or one for each; None: `source` says.
        add: the value is added to what is there. heads: of attention, those that are edited; None: all.
    """

    rows: np.ndarray
    source: np.ndarray | None = None
    value: torch.Tensor | None = None
    add: bool = False
    heads: tuple[int, ...] | None = None


class Edits(Protocol):
    """What a walk hands its states to; `parts`: those that are wanted."""

    parts: frozenset[Part]

    def apply(self, part: Part, layer: int, states: torch.Tensor) -> None:
        """Writes to the states [rows, D], of attention [rows, heads, d], of all rows of the layer."""


class RowEdits:
    """Edits of rows, by part and layer."""

    def __init__(self, edits: Mapping[tuple[Part, int], Sequence[Edit]], device: torch.device) -> None:
        flat = [(place, edit) for place, some in edits.items() for edit in some]
        lists = [part for _, e in flat for part in (e.rows, () if e.source is None else e.source, e.heads or ())]
        sent = iter(upload_lists([np.asarray(part, np.int64) for part in lists], device)) if flat else iter(())
        self._by_place: dict[tuple[Part, int], list[tuple[Edit, torch.Tensor, torch.Tensor, torch.Tensor]]] = {}
        for place, edit in flat:
            self._by_place.setdefault(place, []).append((edit, next(sent), next(sent), next(sent)))
        self.parts = frozenset(part for part, _ in self._by_place)
        self._left = set(self._by_place)

    def apply(self, part: Part, layer: int, states: torch.Tensor) -> None:
        self._left.discard((part, layer))
        for edit, rows, source, heads in self._by_place.get((part, layer), ()):
            if edit.source is not None:
                new = states.index_select(0, source)  # [n, ...]
            else:
                assert edit.value is not None
                new = edit.value.to(states.device, states.dtype)
                new = new.expand(len(rows), *states.shape[1:])
            if edit.add:
                new = new + states.index_select(0, rows)
            if edit.heads is not None:
                whole = states.index_select(0, rows)
                new = whole.index_copy_(1, heads, new.index_select(1, heads))
            states.index_copy_(0, rows, new)

    def check_done(self) -> None:
        """Raises UnsupportedModelError where a part was never asked for: a layer that runs without its own mlp."""
        if self._left:
            part, layer = min(self._left)
            raise UnsupportedModelError(
                f"the {part} of decoder layer {layer} did not pass through avflow, so that nothing was patched there: "
                "load the model without what replaced it, or patch another part"
            )


def with_edited_mlps(model: Model, patches: Sequence[Patch], edits: Edits | None) -> list[Patch]:
    """`patches` for `compat.attributes`, with every MLP's output shown to the edits where they want it."""
    if edits is None or "mlp" not in edits.parts:
        return list(patches)
    out = [(owner, name, value) for owner, name, value in patches]
    for index, layer in enumerate(model.layers):
        if not hasattr(layer, "mlp"):
            continue
        at = next((i for i, p in enumerate(out) if p[0] is layer.mlp and p[1] == "forward"), None)
        run = layer.mlp.forward if at is None else out.pop(at)[2]
        out.append((layer.mlp, "forward", _shown(run, edits, index)))
    return out


def _shown(run: Callable[..., torch.Tensor], edits: Edits, layer: int) -> Callable:
    def forward(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        out = run(x, *more, **named)  # [1, rows, D]
        edits.apply("mlp", layer, out[0])
        return out

    return forward
