"""Rows with several images and sounds in roles that differ: candidates and a reference, or media at tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..prompts.answer import LETTERS, check_order
from ..prompts.tags import DATA_SET_TAG
from .values import LeftOut, Row, as_files, as_path, is_missing

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_WORDS = {"img": "image|img|picture|photo", "audio": "audio|sound"}


def candidates_of(
    row: Row, images: Sequence[str], audios: Sequence[str], options: list[str] | None, answer: Any, media: Path
) -> dict[str, Any]:
    """Candidates, reference, and the answer's letter, that of the candidate which the correct option names; of a row
    without an answer no letter.

    Raises:
        LeftOut: another shape, or options that do not name the candidates one by one.
    """
    several, one = _columns(row, images), _columns(row, audios)
    if min(len(several), len(one)) != 1 or max(len(several), len(one)) < 2:
        raise LeftOut(f"{len(several)} images and {len(one)} sounds")
    several, one = (several, one) if len(several) > 1 else (one, several)
    values: dict[str, Any] = {} if is_missing(answer) else {"answer": _candidate(options, answer, len(several))}
    return {
        **values,
        "candidates": [as_path("a candidate", file, media) for file in several],
        "reference": as_path("the reference", one[0], media),
    }


def media_at_tags(
    row: Row, images: Sequence[str], audios: Sequence[str], question: str, options: list[str] | None, media: Path
) -> dict[str, Any]:
    """{"tagged": {tag: path}}, of the media that the question has tags for ("[img1]", "[audio2]"); and "names", where
    the options name all media of one kind one by one.

    Raises:
        LeftOut: no tag, or one of a video. InputError: a tag without a medium, or a medium without a tag.
    """
    tags = DATA_SET_TAG.findall(question)
    if not tags:
        raise LeftOut("questions without a tag of a medium")
    if any(tag.lower().startswith("[video") for tag in tags):
        raise LeftOut("a video at a tag")
    files = {"img": _columns(row, images, gaps=True), "audio": _columns(row, audios, gaps=True)}
    tagged = {}
    for tag in tags:
        kind, number = _parts(tag)
        there = files[kind]
        if not 0 < number <= len(there) or is_missing(there[number - 1]):
            raise InputError(
                f"the question has {tag}, but the row holds no such medium: fill its column, or take the tag out"
            )
        tagged[tag] = as_path(tag, there[number - 1], media)
    placed = {_parts(tag) for tag in tags}
    for kind, there in files.items():
        for number, file in enumerate(there, start=1):
            if not is_missing(file) and (kind, number) not in placed:
                raise InputError(f"the row holds a medium that the question has no tag for: [{kind}{number}]")
    names = next((found for kind in files if (found := _named(kind, tags, options or ()))), None)
    return {"tagged": tagged, "names": names}


def _columns(row: Row, columns: Sequence[str], gaps: bool = False) -> list[Any]:
    """The files of several columns; of a column with a list, its files. gaps: what is missing keeps its place."""
    found: list[Any] = []
    for column in columns:
        value = row.text(column)
        found += (value if isinstance(value, (list, tuple)) else [value]) if gaps else as_files(value)
    return found


def _parts(tag: str) -> tuple[str, int]:
    """("img", 2) of "[img2]"."""
    text = tag.lower().strip("[]")
    kind = "img" if text.startswith("img") else "audio"
    return kind, int(text.removeprefix(kind))


def _named(kind: str, tags: Sequence[str], options: Sequence[str]) -> list[str] | None:
    """The tag of this kind that each option names; None where they do not name all of the kind, one each."""
    mine = {_parts(tag)[1] - 1: tag for tag in tags if _parts(tag)[0] == kind}
    other = next(words for name, words in _WORDS.items() if name != kind)
    numbers = _numbers(options)
    if len(mine) < 2 or sorted(numbers) != sorted(mine) or any(re.search(other, text.lower()) for text in options):
        return None
    return [mine[number] for number in numbers]


def _numbers(options: Sequence[str]) -> list[int]:
    """Which medium each option names, from 0: "the third image" is 2; -1: none, or several."""
    texts = [re.sub(r"^\s*\(?[A-Za-z]\s*[.):]\s*", "", option).lower() for option in options]
    named = []
    for text in texts:
        found = [n for n, word in enumerate(_ORDINALS) if re.search(rf"\b{word}\b", text)]
        found += [int(n) - 1 for n in re.findall(r"\b(?:image|img|audio|sound|picture)\s*(\d)\b", text)]
        named.append(found[0] if len(found) == 1 else -1)
    return named


def _candidate(options: list[str] | None, answer: Any, candidates: int) -> str:
    """The letter of the candidate that the correct option names."""
    named = _numbers(options or ())
    if sorted(named) != list(range(candidates)):
        raise LeftOut("options that do not name the candidates one by one")
    check_order(options or ())
    letter = str(answer).strip("(). :").upper()
    if len(letter) != 1 or letter not in LETTERS[:candidates]:
        raise InputError(f"answer {answer!r} is no letter A to {LETTERS[candidates - 1]}")
    return LETTERS[named[LETTERS.index(letter)]]
