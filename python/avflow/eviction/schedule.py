"""Which group of tokens leaves the sequence after which layer: what `avflow.plan_eviction` finds and `evict` runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from .. import checks
from ..documents import parse_json, read_text
from ..errors import InputError
from ..files import write_whole
from ..prompts.groups import GroupTable
from . import policies
from .notebook import as_html
from .policies import SCORED_IN, KeepNone, Policy

FORMAT, VERSION = "avflow-eviction-schedule", 2
STAY = ("last", "answer")  # what predicts the answer, and the answer itself
LABELLINGS = ("prompt", "ids")
Per = Literal["item", "second"] | float | None
BEFORE = -1  # as `after`: before layer 0, so that no layer sees them

_OMNI_3B = {"model_type": "qwen2_5_omni_thinker", "layers": 36, "hidden": 2048}
# The schedules of the study on Qwen2.5-Omni-3B.
PRESETS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "omni_3b_av_video": ({"video": 26, "audio": 26, "question_text": 29}, _OMNI_3B),
    "omni_3b_interleaved": ({"candidates": 25, "question_text": 29, "reference": 31}, _OMNI_3B),
}


def when(after: int) -> str:
    """For messages: "after layer 3", "before layer 0"."""
    return "before layer 0" if after == BEFORE else f"after layer {checks.shown(after)}"


class Scheduled(Protocol):
    """What a schedule asks of a model; `avflow.Model` has it."""

    hf: Any
    config: Any
    groups: GroupTable
    family: Any

    @property
    def n_layers(self) -> int: ...


@dataclass(frozen=True)
class Step:
    """A group's tokens leave after a layer, but for those that `keep` selects; or rest for some layers.

    Args:
        group: a group, an alias, or a sum such as "video+audio".
        after: the last layer (0-based) that sees them; -1: none does, they leave before layer 0.
        keep: which of them stay; default none.
        until: the last layer that does not see them. They come back in the next one as they left: with the hidden
            states that layer `after` gave them, at their own places. None: they do not come back.
        per: asks the policy for each part of the tokens alone, so that each has its own budget: "item", for each frame,
            segment or option of each group; "second", or a number of seconds, for each stretch of time, all groups of
            the step together (then tokens need times: see Prompt.times). None: once for all of a sequence.

    Raises:
        InputError: an empty group, a layer below -1, an `until` that is not above `after`, another `per`, a `keep`
            without `select` or with another `scored_in`; after = -1 with a policy that ranks by the attention of that
            layer.
    """

    group: str
    after: int
    keep: Policy = field(default_factory=KeepNone)
    until: int | None = None
    per: Per = None

    def __post_init__(self) -> None:
        if not isinstance(self.group, str) or not self.group.strip():
            shown = checks.shown(self.group)
            raise InputError(f'Step.group = {shown}: pass a group, an alias or a sum such as "video+audio"')
        if isinstance(self.after, bool) or not isinstance(self.after, int) or self.after < BEFORE:
            shown = checks.shown(self.after)
            raise InputError(f"Step.after = {shown} (group {self.group!r}): pass a layer, an integer from 0 on, or -1")
        if not callable(getattr(self.keep, "select", None)) or isinstance(self.keep, type):
            raise InputError(
                f"Step.keep = {checks.shown(self.keep)} (group {self.group!r}): pass a policy, such as TopK(share=0.5)"
            )
        where = getattr(self.keep, "scored_in", "this")
        checks.choice(f"{type(self.keep).__name__}.scored_in", where, SCORED_IN)
        if self.after == BEFORE and where == "this" and getattr(self.keep, "uses_scores", False):
            raise InputError(
                f"Step.after = -1 (group {self.group!r}) with {self.keep}: no layer has run by then whose attention "
                "could rank them: scored_in='next' ranks by that of layer 0"
            )
        if self.until is not None:
            mend = f"pass the last layer without them, above {self.after}, or None where they do not come back"
            until = checks.integer(f"group {self.group!r}: Step.until =", self.until, low=self.after + 1, mend=mend)
            object.__setattr__(self, "until", until)
        if self.per is not None and not (isinstance(self.per, str) and self.per in ("item", "second")):
            what = f"Step.per (group {self.group!r}) ="
            mend = 'pass "item", "second", a number of seconds above 0, or None'
            object.__setattr__(self, "per", checks.number(what, self.per, above=True, mend=mend))

    @property
    def when(self) -> str:
        """For messages: "after layer 3", "before layer 0"."""
        return when(self.after)

    def __str__(self) -> str:
        """For messages: what happens and when."""
        return f"{self.group} after {self.after}" + ("" if self.until is None else f" until {self.until}")


@dataclass(frozen=True, init=False)
class EvictionSchedule:
    """Steps, sorted by layer, and where they come from.

    Args:
        steps: {group: layer after which it leaves}, or Steps; a group may leave in several steps (PyramidDrop).
        model: {"model_type", "layers", "hidden"} of the model that it was made for (see `facts`), or None.
        data, figures: of the measurement that it was chosen from, as JSON can hold them; or None.
        labelling: what told its tokens' groups apart: "prompt", the labels of `model.prepare` or the user's own;
            "ids", the token ids alone, to which all of the user's text is "question_text"; or None, nobody said.

    Raises:
        InputError: a step that makes no sense; the message names it.
    """

    steps: tuple[Step, ...]
    model: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    figures: dict[str, Any] | None = None
    labelling: str | None = None

    def __init__(
        self,
        steps: Mapping[str, int] | Iterable[Step],
        model: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        figures: dict[str, Any] | None = None,
        labelling: str | None = None,
    ) -> None:
        given = checks.members(steps.items() if isinstance(steps, Mapping) else steps, checks.MOST_STEPS)
        if given is None:
            raise InputError(f"schedule steps {checks.shown(steps)}: pass {{group: layer}} or a list of avflow.Step")
        if isinstance(steps, Mapping):
            given = [Step(g, a) for g, a in given]
        wrong = [s for s in given if not isinstance(s, Step)]
        if wrong:
            shown = checks.shown(wrong[0])
            raise InputError(f"schedule step {shown}: pass {{group: layer}} or a list of avflow.Step")
        if len(given) > checks.MOST_STEPS:
            raise InputError(f"a schedule of more than {checks.MOST_STEPS} steps: a group leaves once a layer at most")
        for name, part in (("model", model), ("data", data), ("figures", figures)):
            if part is not None and not isinstance(part, dict):
                raise InputError(f"the schedule's {name} is {checks.shown(part)}: pass a dict or None")
        if labelling is not None:
            checks.choice("the schedule's labelling", labelling, LABELLINGS)
        put = object.__setattr__  # frozen: this is the only place that writes
        put(self, "steps", tuple(sorted(given, key=lambda s: s.after)))
        put(self, "model", model)
        put(self, "data", data)
        put(self, "figures", figures)
        put(self, "labelling", labelling)

    def _repr_html_(self) -> str:
        return as_html(self.steps, self.model, self.figures)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers after which something leaves, ascending; -1: before layer 0."""
        return tuple(sorted({s.after for s in self.steps}))

    @property
    def ends(self) -> tuple[int, ...]:
        """The layers after which something leaves or comes back, ascending."""
        return ends_of(self.steps)

    @staticmethod
    def facts(model: Scheduled) -> dict[str, Any]:
        """What a schedule says of its model."""
        return {
            "model_type": model.hf.config.model_type,
            "layers": model.n_layers,
            "hidden": model.config.hidden_size,
        }

    def check(self, model: Scheduled) -> None:
        """Raises InputError where the schedule is another model's, or names layers or groups that cannot be."""
        if self.model is not None:
            here = self.facts(model)
            for key, value in self.model.items():
                if key in here and here[key] != value:
                    raise InputError(
                        f"the schedule was made for a model with {key} {checks.shown(value)}, this one has "
                        f"{here[key]!r}: measure one for this model with avflow.plan_eviction"
                    )
        for step in self.steps:
            if step.after > model.n_layers - 2:
                raise InputError(
                    f"group {step.group!r} leaves {step.when}: the model has layers 0 .. "
                    f"{model.n_layers - 1}, and the last after which leaving saves anything is {model.n_layers - 2}"
                )
            if step.until is not None and step.until > model.n_layers - 2:
                raise InputError(
                    f"group {step.group!r} rests until layer {checks.shown(step.until)}: the model has layers 0 .. "
                    f"{model.n_layers - 1}, and the last until which it can rest is {model.n_layers - 2}. To rest "
                    f"through the last layer is to leave: Step({step.group!r}, {step.after})"
                )
            stays = [name for name in model.groups.members(step.group) if name in STAY]
            if stays:
                raise InputError(
                    f"group {step.group!r} holds {stays[0]!r}, which must stay: without it there is no answer. Name "
                    "the groups that may leave"
                )
        self._check_rests(model.groups)

    def _check_rests(self, groups: GroupTable) -> None:
        """Raises InputError where a step takes tokens of a group that rests: some of them would not be there."""
        for number, rest in enumerate(self.steps):
            if rest.until is None:
                continue
            for other in self.steps[:number] + self.steps[number + 1 :]:
                both = sorted(set(groups.members(rest.group)) & set(groups.members(other.group)))
                if both and rest.after <= other.after <= rest.until:
                    raise InputError(
                        f"{both[0]!r} rests from layer {rest.after + 1} to {rest.until} ({rest}), and another step is "
                        f"to take it after layer {other.after} ({other}): let it begin after layer {rest.until + 1} or "
                        f"later, or end the rest before layer {other.after}"
                    )

    def check_told(self, model: Scheduled) -> None:
        """For labels that are read off the ids: raises InputError where those do not tell what the schedule names."""
        if self.labelling == "ids":
            return
        for step in self.steps:
            hidden = [name for name in model.groups.members(step.group) if name not in model.family.told_by_ids]
            if hidden:
                raise InputError(
                    f"the schedule drops {step.group!r} {step.when}, and token ids alone do not tell "
                    f"{hidden[0]!r}: all of the user's text would count as question_text and leave, answer options "
                    "too. Pass groups=prompt with what model.prepare(sample) or model.prepare_batch(samples) gave, or "
                    'groups="ids" if all of the user\'s text may leave'
                )

    @property
    def _version(self) -> int:
        """Of its file: 1 where every avflow reads the steps as they are meant, so that others refuse the rest."""
        return VERSION if any(map(_since_version_2, self.steps)) else 1

    def save(self, path: str | Path) -> None:
        """Writes a JSON file, whole or not at all.

        Raises:
            InputError: a policy or a figure that JSON cannot hold.
        """
        value = {
            "format": FORMAT,
            "version": self._version,
            "steps": [_step_to_json(step) for step in self.steps],
            "model": self.model,
            "data": self.data,
            "figures": self.figures,
            "labelling": self.labelling,
        }
        try:
            text = json.dumps(value, indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"the schedule's data or figures cannot be written as JSON: {error}") from error
        write_whole(checks.path("the schedule's file", path), (text + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> EvictionSchedule:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file, a broken one, another format, a newer version.
        """
        path = checks.path("the schedule's file", path)
        text = read_text(path, "schedule")
        try:
            value = parse_json(text)
        except InputError as error:
            raise InputError(f"schedule {path} is broken: {error}") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(f"{path} is no eviction schedule: its format must be {FORMAT!r}")
        version = value.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InputError(f"schedule {path} is broken: its version is {checks.shown(version)}")
        if version > VERSION:
            raise InputError(
                f"schedule {path} is of version {version}, this avflow reads up to {VERSION}: update avflow"
            )
        if not isinstance(value.get("steps"), list):
            raise InputError(f"schedule {path} is broken: its steps are {checks.shown(value.get('steps'))}, not a list")
        try:
            steps = [_step_from_json(step) for step in value["steps"]]
            more = {name: value.get(name) for name in ("model", "data", "figures")}
        except (KeyError, TypeError) as error:
            raise InputError(f"schedule {path} is broken: a step needs group, after and keep ({error!r})") from error
        wrong = [name for name, part in more.items() if part is not None and not isinstance(part, dict)]
        if wrong:
            raise InputError(f"schedule {path} is broken: {wrong[0]} must be an object or null")
        labelling = value.get("labelling")
        if labelling is not None and labelling not in LABELLINGS:
            known = ", ".join(LABELLINGS)
            raise InputError(f"schedule {path} is broken: its labelling is {checks.shown(labelling)}, not of {known}")
        return cls(tuple(steps), **more, labelling=labelling)

    @classmethod
    def preset(cls, name: str) -> EvictionSchedule:
        """A published study's schedule: "omni_3b_av_video" or "omni_3b_interleaved" (Qwen2.5-Omni-3B).

        Raises:
            InputError: another name.
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise InputError(f"schedule preset {checks.shown(name)}: pass one of {', '.join(PRESETS)}")
        steps, model = PRESETS[name]
        return cls(steps, model=dict(model), labelling="prompt")


def ends_of(steps: Iterable[Step]) -> tuple[int, ...]:
    """The layers after which something leaves or comes back, ascending."""
    given = tuple(steps)
    return tuple(sorted({s.after for s in given} | {s.until for s in given if s.until is not None}))


def _since_version_2(step: Step) -> bool:
    return step.after == BEFORE or step.until is not None or step.per is not None or policies.needs_version_2(step.keep)


def _step_to_json(step: Step) -> dict[str, Any]:
    found = {"group": step.group, "after": step.after, "keep": policies.to_json(step.keep)}
    more = {"until": step.until, "per": step.per}
    return found | {name: value for name, value in more.items() if value is not None}


def _step_from_json(value: Any) -> Step:
    """Raises KeyError, TypeError where it is no step; InputError where its values are wrong, or it has others."""
    keep = policies.from_json(value["keep"])
    known = ("group", "after", "keep", "until", "per")
    unknown = sorted(set(value) - set(known))
    if unknown:  # "untill" would leave for good
        raise InputError(
            f"a step of group {checks.shown(value['group'])} has no field {checks.shown(unknown[0])}: it has "
            f"{', '.join(known)}"
        )
    return Step(value["group"], value["after"], keep, until=value.get("until"), per=value.get("per"))
