"""What `additional_config={"avflow": ...}` says, checked: the schedule, and whose positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from avflow import checks
from avflow.errors import InputError
from avflow.eviction.policies import EveryNth, KeepAll, KeepNone
from avflow.eviction.schedule import STAY, EvictionSchedule, Step
from avflow.prompts.groups import ALIASES, GroupTable

KEY = "avflow"
NAMED = ("schedule", "positions", "decode", "untried")
POSITIONS = ("transformers", "vllm")
TOLD_BY_IDS = ("video", "audio", "image")  # every other group comes as runs, request by request
POINTWISE = (KeepNone, KeepAll, EveryNth)
WHY = {
    "until": "in vLLM what leaves does not come back, since later layers keep no KV blocks for it",
    "per": "in vLLM a step counts the items of all its tokens together",
}


@dataclass(frozen=True)
class Settings:
    """One engine's.

    Attributes:
        steps: of the schedule, sorted by layer; () if nothing leaves.
        boundaries: layers after which something may leave, ascending, -1 for before layer 0; layers between two of
            them are a segment.
        corrected: positions of video that is interleaved with its sound are those of transformers.
        facts: of the model that the schedule was made for, or None.
        untried: devices on which nobody has compared the answers are taken.
    """

    steps: tuple[Step, ...] = ()
    boundaries: tuple[int, ...] = ()
    corrected: bool = True
    facts: Mapping[str, Any] | None = None
    untried: bool = False

    def segment(self, layer: int) -> int:
        """0 for the layers up to the first boundary."""
        return sum(layer > end for end in self.boundaries)

    def table(self) -> GroupTable:
        """Groups that a request may name: avflow's, and those that the schedule does."""
        table = GroupTable()
        for step in self.steps:
            for part in step.group.split("+"):
                if part.strip() not in (*ALIASES, "all"):
                    table.add(part.strip())
        return table

    @property
    def counts_items(self) -> bool:
        """Whether some step asks which frame or segment a token is of."""
        return any(isinstance(step.keep, EveryNth) for step in self.steps)

    def needs_runs(self, items: bool = False) -> Step | None:
        """A step that ids cannot carry out: it names a group that they do not tell, or asks for items.

        items: those of the media are known.
        """
        table = self.table()
        for step in self.steps:
            if isinstance(step.keep, KeepAll):
                continue
            if isinstance(step.keep, EveryNth) and not items:
                return step
            if set(table.members(step.group)) - set(TOLD_BY_IDS):
                return step
        return None


def read_settings(additional_config: Any) -> Settings | None:
    """The engine's settings; None where it was given no key "avflow".

    Raises:
        InputError: something else than {"schedule": file or {group: layer}, "positions": ...} or {group: layer}; a step
            that cannot be carried out here.
    """
    given = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise _wrong(given)
    named = {name: value for name, value in given.items() if name in NAMED}
    short = {name: value for name, value in given.items() if name not in named}
    if short and "schedule" in named:
        raise InputError(f'additional_config["avflow"] has a schedule and {checks.shown(next(iter(short)))}: give one')
    if checks.choice('additional_config["avflow"]["decode"]', named.get("decode", "keep"), ("keep", "drop")) == "drop":
        raise InputError(
            'avflow in vLLM has no decode="drop": tokens that left stay visible in the layers up to their own, as with '
            'avflow.evict(decode="keep"). Leave "decode" out'
        )
    positions = checks.choice(
        'additional_config["avflow"]["positions"]', named.get("positions", POSITIONS[0]), POSITIONS
    )
    schedule = _schedule(named.get("schedule", short))
    for step in schedule.steps:
        _check(step)
    settings = Settings(
        steps=schedule.steps,
        boundaries=tuple(sorted({s.after for s in schedule.steps if not isinstance(s.keep, KeepAll)})),
        corrected=positions == "transformers",
        facts=schedule.model,
        untried=checks.flag('additional_config["avflow"]["untried"]', named.get("untried", False)),
    )
    table = settings.table()
    for step in settings.steps:
        stays = [name for name in table.members(step.group) if name in STAY]
        if stays:
            raise InputError(
                f"group {step.group!r} holds {stays[0]!r}, which must stay: name the groups that may leave"
            )
    return settings


def _wrong(given: Any) -> InputError:
    return InputError(
        f'additional_config["avflow"] is {checks.shown(given)}: pass {{"schedule": "schedule.json"}}, a file that '
        '`avflow plan` wrote, or {"video": 26, "audio": 26}, the layer after which each group leaves'
    )


def _schedule(given: Any) -> EvictionSchedule:
    if isinstance(given, str):
        return EvictionSchedule.load(given)
    if isinstance(given, Mapping):
        return EvictionSchedule({group: layer for group, layer in given.items()})
    raise _wrong(given)


def _check(step: Step) -> None:
    what = f"the step {step.group!r} {step.when}"
    if type(step.keep) not in POINTWISE:
        names = ", ".join(policy.__name__ for policy in POINTWISE)
        raise InputError(
            f"{what} keeps by {step.keep}: avflow in vLLM has {names}. Who leaves is settled when a request comes in, "
            "before there are embeddings; and vLLM's kernels give no attention scores"
        )
    things: list[tuple[Any, tuple[str, ...]]] = [(step, ("group", "after", "keep")), (step.keep, ("n",))]
    for thing, known in things:
        for field in fields(thing):
            value = getattr(thing, field.name)
            if field.name not in known and value != field.default:
                why = WHY.get(field.name, "avflow in vLLM does not know that")
                raise InputError(f"{what} has {field.name} = {checks.shown(value)}: {why}. Use avflow.evict for it")
