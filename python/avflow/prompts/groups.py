"""Token groups: what a token is, as a small integer, and sets of them as 64-bit words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from avflow_ext import table_of

from ..checks import shown
from ..errors import InputError

BASE_GROUPS = (
    "system",
    "video",
    "audio",
    "image",
    "question_text",
    "option_correct",
    "option_incorrect",
    "candidate_correct",
    "candidate_incorrect",
    "reference",
    "template",
    "last",
    "answer",
    "instruction",
)

# `all` is every group of the table, also those that a user added.
ALIASES = {
    "options": ("option_correct", "option_incorrect"),
    "question": ("question_text", "option_correct", "option_incorrect"),
    "candidates": ("candidate_correct", "candidate_incorrect"),
    "media": ("video", "audio", "image"),
    "text": (
        "system",
        "question_text",
        "option_correct",
        "option_incorrect",
        "instruction",
        "template",
        "last",
        "answer",
    ),
}

MAX_GROUPS = 64


def check_group_name(name: object) -> None:
    """Raises InputError for an alias' name, and for one that the text form of a knockout could not hold."""
    if not isinstance(name, str) or not name.replace("_", "a").isalnum():
        raise InputError(f"group name {shown(name)}: use letters, digits and underscores")
    if name in ALIASES or name == "all":
        raise InputError(f"group name {name!r} is an alias of several groups: choose another")


class GroupTable:
    """Names of token groups and their ids 0..63, in the order in which they were added."""

    def __init__(self, names: Sequence[str] = BASE_GROUPS) -> None:
        self._ids: dict[str, int] = {}
        for name in names:
            self.add(name)

    @property
    def names(self) -> list[str]:
        return list(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def __getitem__(self, name: str) -> int:
        if not isinstance(name, str) or name not in self._ids:
            known, text = ", ".join(self._ids), shown(name)
            raise InputError(f"no group is called {text}; there are {known}. Add one with model.groups.add({text})")
        return self._ids[name]

    def add(self, name: str) -> int:
        """The id of `name`, added if it is new.

        Raises:
            InputError: an alias' name, a name that the text form of a knockout could not hold, or a 65th group.
        """
        if isinstance(name, str) and name in self._ids:
            return self._ids[name]
        check_group_name(name)
        if len(self._ids) == MAX_GROUPS:
            raise InputError(f"group {name!r} would be number {MAX_GROUPS + 1}: {MAX_GROUPS} groups are the most")
        self._ids[name] = len(self._ids)
        return self._ids[name]

    def members(self, name: str) -> tuple[str, ...]:
        """Group names behind a group, an alias or a sum such as "video+audio". Raises InputError for another name."""
        if not isinstance(name, str):
            raise InputError(f'group {shown(name)}: pass a group, an alias or a sum such as "video+audio"')
        out: list[str] = []
        for part in name.split("+"):
            part = part.strip()
            if part == "all":
                out += self._ids
            elif part in ALIASES:
                out += ALIASES[part]
            elif part in self._ids:
                out.append(part)
            else:
                known = ", ".join([*self._ids, *ALIASES, "all"])
                raise InputError(f"no group or alias is called {part!r}; there are {known}")
        return tuple(dict.fromkeys(out))

    def expand(self, name: str) -> int:
        """The 64-bit word of a group, an alias or a sum such as "video+audio"."""
        word = 0
        for member in self.members(name):
            word |= 1 << self._ids[member]
        return word

    def table(self, word: int) -> np.ndarray:
        """Which group ids a 64-bit word holds: bool [64]."""
        return table_of(word)

    def ids(self, names: Iterable[str]) -> np.ndarray:
        """Ids of many names, int32 [n]."""
        names = list(names)
        table = {name: self[name] for name in set(names)}
        return np.fromiter(map(table.__getitem__, names), np.int32, len(names))
