"""Tokens of a prompt go to groups of one's own: by labels, whose tokens are found here, or by a name for each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..errors import InputError, warn_user
from .groups import GroupTable
from .label import Label
from .places import cells, spans
from .prompt import Prompt

Decode = Callable[[list[int]], str]  # token ids as text
_BY = ", by its labels"
_LONGEST_PIECE = 16  # tokens: four characters of four bytes
_WORDS = ("system", "question_text", "option_correct", "option_incorrect", "instruction")
# In Prompt.media: {group: {group of one's own: how many of its tokens went there}}, and what avflow's own labels were.
LEFT, OWN = "relabelled", "labels_of_avflow"


def relabel(prompt: Prompt, labels: Sequence[Label], table: GroupTable, decode: Decode) -> Prompt:
    """The prompt with the tokens of each label in its group; a later label goes before an earlier one.

    Raises:
        InputError: a label that this prompt cannot place (no times, no grid), positions outside it.
    """
    groups, items, notes = list(prompt.groups), list(prompt.items), []
    for label in labels:
        table.add(label.group)
        found = np.flatnonzero(_Finder(prompt, table, decode).tokens(label))
        if not len(found):
            notes.append(f"label {label} holds no token")
        for at in found.tolist():
            groups[at] = label.group
            items[at] = items[at] if label.item is None else label.item
    return _changed(prompt, groups, items, notes)


def rename(prompt: Prompt, names: Sequence[str | None], table: GroupTable) -> Prompt:
    """The prompt with these groups, one a token; None: the token keeps its own.

    Raises:
        InputError: another number of names, an alias' name, a last token that is not `last`.
    """
    if len(names) != len(prompt):
        raise InputError(f"prompt {prompt.id!r}: {len(prompt)} tokens, {len(names)} names: give one a token")
    for name in dict.fromkeys(name for name in names if name is not None):
        table.add(name)
    groups = [own if name is None else name for own, name in zip(prompt.groups, names, strict=True)]
    return _changed(prompt, groups, prompt.items, [])


def _changed(prompt: Prompt, groups: list[str], items: Sequence[int], notes: list[str]) -> Prompt:
    """The prompt with these labels; its media facts tell which groups have lost tokens, and to which."""
    before = prompt.media.get(OWN, (prompt.groups, prompt.items))
    left: dict[str, dict[str, int]] = {}
    for was, now in zip(before[0], groups, strict=True):
        if was != now:
            gone = left.setdefault(was, {})
            gone[now] = gone.get(now, 0) + 1
    told = [f"{n} tokens of {group} are {own}{_BY}" for group, gone in left.items() for own, n in gone.items()]
    earlier = [note for note in prompt.media.get("notes", ()) if not note.endswith(_BY)]
    media = {**prompt.media, LEFT: left, OWN: before}
    if earlier or told or notes:
        media["notes"] = [*earlier, *told, *notes]
    return dataclasses.replace(prompt, groups=groups, items=list(items), media=media)


def warn_of_left(prompt: Prompt, sides: Iterable[str], table: GroupTable, warned: set[str]) -> None:
    """An AvflowWarning, once for each, where `video` is named, some of its tokens are `object`, and `object` is not.

    sides: groups, aliases or sums that an experiment names. warned: what was warned of.
    """
    left: dict[str, dict[str, int]] = prompt.media.get(LEFT, {})
    for side in dict.fromkeys(sides) if left else ():
        named = table.members(side)
        lost = {own for group in named for own in left.get(group, {}) if own not in named}
        if lost and (key := f"left {side} {sorted(lost)}") not in warned:
            warned.add(key)
            more = "+".join(sorted(lost))
            warn_user(
                f"{side!r} no longer holds the tokens that labels have made {more} (prompt {prompt.id!r}): write "
                f"{side}+{more} where they are meant too"
            )


class _Finder:
    """The tokens of labels in one prompt, as avflow has labelled it."""

    def __init__(self, prompt: Prompt, table: GroupTable, decode: Decode) -> None:
        self.prompt, self.table, self.decode = prompt, table, decode
        groups, items = prompt.media.get(OWN, (prompt.groups, prompt.items))
        self.groups, self.items = np.array(groups), np.array(items)

    def tokens(self, label: Label) -> np.ndarray:
        """bool [N]; never the last token, which is `last`."""
        found = np.ones(len(self.prompt), bool)
        if label.of is not None:
            found &= np.isin(self.groups, self.table.members(label.of))
        if label.items is not None:
            found &= np.isin(self.items, label.items)
        if label.tokens is not None:
            found &= self._listed(label, label.tokens)
        if label.start is not None or label.end is not None:
            found &= self._within(label)
        if label.box is not None:
            found &= self._inside(label, label.box)
        if label.text is not None:
            found &= self._words(label, label.text)
        found[-1] = False
        return found

    def _say(self, label: Label, text: str) -> InputError:
        return InputError(f"prompt {self.prompt.id!r}: label {label}: {text}")

    def _listed(self, label: Label, tokens: tuple[int, ...]) -> np.ndarray:
        most = len(self.prompt) - 2
        if max(tokens) > most:
            raise self._say(label, f"token {max(tokens)} cannot be labelled: give positions 0 .. {most}")
        listed = np.zeros(len(self.prompt), bool)
        listed[list(tokens)] = True
        return listed

    def _within(self, label: Label) -> np.ndarray:
        shown = spans(self.prompt, self.groups)
        if shown is None:
            raise self._say(label, "none of its tokens has a time: leave start and end out, or give items")
        sample = self.prompt.sample
        if sample is not None and sample.start:  # the times of a part count from its begin
            cut = np.isin(self.groups, ("video",) if sample.audio else ("video", "audio"))
            shown = shown + np.where(cut, sample.start, 0.0)[:, None]
        start, end = label.start or 0.0, np.inf if label.end is None else label.end
        return (shown[:, 0] < end) & (shown[:, 1] > start)  # NaN: False

    def _inside(self, label: Label, box: tuple[float, float, float, float]) -> np.ndarray:
        shown = cells(self.prompt, self.groups, self.items)
        if shown is None:
            raise self._say(label, "it has no grid of video or image tokens: give tokens or items instead of a box")
        pictured = set(self.groups[~np.isnan(shown[:, 0])].tolist())
        kinds = {group.partition("_")[0] for group in pictured}  # right and wrong candidates are of one kind
        if label.of is None and len(kinds) > 1:
            raise self._say(label, 'it has a video and an image: say which is meant, "of": "video"')
        x0, y0, x1, y1 = box
        fine = 1e-9  # a side on a token's edge, after a division
        across = (shown[:, 0] < x1 - fine) & (shown[:, 2] > x0 + fine)
        return across & (shown[:, 1] < y1 - fine) & (shown[:, 3] > y0 + fine)

    def _words(self, label: Label, words: str) -> np.ndarray:
        if self.prompt.input_ids is None:
            raise self._say(label, "its tokens have no ids, so their words are not known: give tokens instead of text")
        at = np.flatnonzero(np.isin(self.groups, _WORDS)).tolist()
        ids = self.prompt.input_ids.tolist()
        text, held = "", []  # positions that one piece of the text comes from, its begin and end
        piece: list[int] = []
        for number, position in enumerate(at):
            piece.append(position)
            shown = self.decode([ids[one] for one in piece])
            whole = number + 1 == len(at) or at[number + 1] != position + 1
            if shown.endswith("\ufffd") and not whole and len(piece) < _LONGEST_PIECE:
                continue  # the token ends within a character
            held.append((piece, len(text), len(text) + len(shown)))
            text += shown + ("\0" if whole else "")  # no words go on across what stands between
            piece = []
        found, place = np.zeros(len(self.prompt), bool), text.find(words)
        while place >= 0:
            for piece, begin, end in held:
                if begin < place + len(words) and end > place:
                    found[piece] = True
            place = text.find(words, place + 1)
        return found
