"""What the `avflow.knockout` and `avflow.evict` blocks that are open on one model put in force: cuts and a schedule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count

from avflow_ext import Cut

from ..errors import InputError
from ..eviction.schedule import EvictionSchedule, Step
from ..knockouts.knockout import Knockout, Semantics
from ..models.base import Model
from ..models.undoing import undoing
from .boundary import BoundaryNorm, boundary_norm

_VERSIONS = count(1)  # of all models: what was prepared for one block must not be taken for another's


@dataclass(frozen=True)
class Rule:
    """Knockouts in force in some layers."""

    knockouts: tuple[Knockout, ...]
    layers: frozenset[int]
    semantics: Semantics
    cuts: tuple[Cut, ...]


class Interventions:
    """What is done to the tokens of one model's forwards. Blocks add to it, forwards only read it.

    Attributes:
        rules: the cuts in force.
        schedule: that of the open `avflow.evict` block, or None. decode, missing: the block's arguments.
        norms: by number, of the layers before which rows leave or come back: what stands for the layer's first norm.
        version: differs after every change of the cuts; what was prepared for another version holds no longer.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.rules: list[Rule] = []
        self.schedule: EvictionSchedule | None = None
        self.decode = "keep"
        self.missing = "raise"
        self.norms: dict[int, BoundaryNorm] = {}
        self.version = next(_VERSIONS)

    @property
    def block(self) -> str:
        """For messages: the block that the user wrote."""
        return "avflow.knockout" if self.schedule is None else "avflow.evict"

    @property
    def steps(self) -> tuple[Step, ...]:
        return () if self.schedule is None else self.schedule.steps

    @property
    def knockouts(self) -> tuple[Knockout, ...]:
        return sum((rule.knockouts for rule in self.rules), ())

    def cuts(self, layer: int) -> tuple[tuple[Cut, ...], Semantics]:
        """The cuts in force in a layer, and their semantics."""
        rules = [rule for rule in self.rules if layer in rule.layers]
        return sum((rule.cuts for rule in rules), ()), rules[0].semantics if rules else "renormalize"

    @contextmanager
    def cutting(self, rule: Rule) -> Iterator[None]:
        """Puts a rule in force for as long as the block lasts.

        Raises:
            InputError: another semantics is in force in one of its layers.
        """
        for other in self.rules:
            both = sorted(other.layers & rule.layers)
            if both and other.semantics != rule.semantics:
                raise InputError(
                    f"layer {both[0]} has knockouts with semantics {other.semantics!r} already: use one a layer"
                )
        with undoing() as undo:
            undo.append(partial(self._drop, rule))
            self.rules.append(rule)
            self.version = next(_VERSIONS)
            yield

    def _drop(self, rule: Rule) -> None:
        self.rules = [one for one in self.rules if one is not rule]
        self.version = next(_VERSIONS)

    @contextmanager
    def evicting(self, schedule: EvictionSchedule, decode: str, missing: str = "raise") -> Iterator[None]:
        """Puts a schedule in force for as long as the block lasts.

        Raises:
            InputError: one is in force.
        """
        if self.schedule is not None:
            raise InputError("avflow.evict within avflow.evict: put all steps into one schedule")
        norms = {end + 1: boundary_norm(self.model.layers[end + 1]) for end in schedule.ends}
        with undoing() as undo:
            undo.append(self._drop_schedule)
            self.norms = {layer: norm for layer, norm in norms.items() if norm is not None}
            self.schedule, self.decode, self.missing = schedule, decode, missing
            yield

    def _drop_schedule(self) -> None:
        self.schedule, self.decode, self.missing, self.norms = None, "keep", "raise", {}
