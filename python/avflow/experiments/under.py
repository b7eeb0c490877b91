"""Knockouts that are in force while a run is looked at: what a lens or an attention share shows under them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from avflow_ext import Cut

from ..errors import InputError
from ..knockouts.amplification import refuse_amplified
from ..knockouts.knockout import Knockout
from ..knockouts.presets import as_knockouts
from ..knockouts.windows import layer_list
from ..models.base import Model

Knockouts = str | Knockout | Iterable[str | Knockout] | None
Layers = int | Sequence[int] | None


class Cutting:
    """All of these knockouts together, in some layers: layer -> cuts.

    `cuts`: all of them; `layers`: where they are in force; `names`: of the knockouts.

    Args:
        knockouts: as of `avflow.knockout`; None: nothing is cut. layers: where; None for all.

    Raises:
        InputError: layers without a knockout; groups, heads or layers that the model does not have.
    """

    def __init__(self, model: Model, knockouts: Knockouts, layers: Layers) -> None:
        self.names: list[str] = []
        self.layers: list[int] = []
        self.cuts: tuple[Cut, ...] = ()
        if knockouts is None:
            if layers is not None:
                raise InputError("cut_layers without knockouts: name what is cut there, or leave them out")
            return
        chosen = as_knockouts(knockouts)
        refuse_amplified(chosen, "a look")
        for one in chosen:
            one.check_heads(model.n_heads)
            one.refuse_items("a look")
        self.names, self.layers = [one.name for one in chosen], layer_list(layers, model.n_layers)
        self.cuts = tuple(cut for one in chosen for cut in one.cuts(model.groups))

    def __call__(self, layer: int) -> tuple[Cut, ...]:
        return self.cuts if layer in self.layers else ()

    def meta(self) -> dict[str, Any]:
        """For a result's `meta`; nothing where nothing is cut."""
        return {"knockouts": self.names, "cut_layers": self.layers} if self.names else {}
