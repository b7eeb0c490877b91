"""Media that stand at tags within a question: "Listen to [audio1]. Which of [img1], [img2] ... fits?"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from .. import checks
from ..errors import InputError
from .media_path import media_path

Kind = Literal["image", "audio"]
DATA_SET_TAG = re.compile(r"\[(?:img|audio|video)[0-9]+\]", re.IGNORECASE)  # as AV-Odyssey writes them


class Tagged(NamedTuple):
    """A medium in its place: its file, and the group and item of its tokens."""

    path: str
    kind: Kind
    group: str
    item: int


def split_at(text: str, tags: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """(is it a tag, the piece) of a text, in its order; empty pieces are left out."""
    pattern = "|".join(re.escape(tag) for tag in sorted(tags, key=len, reverse=True))
    for number, piece in enumerate(re.split(f"({pattern})", text)):
        if piece:
            yield number % 2 == 1, piece


def in_order(question: str, tags: Iterable[str]) -> list[str]:
    """The tags in the order in which the question has them."""
    return [piece for is_tag, piece in split_at(question, tags) if is_tag]


def check_tags(where: str, tagged: Any, question: str) -> dict[str, str]:
    """{tag: path} as a Sample takes it, in the order of the question.

    Raises:
        InputError: no such mapping, a tag that the question does not have exactly once.
    """
    if not isinstance(tagged, Mapping) or not tagged:
        raise InputError(f'{where}: tagged is {checks.shown(tagged)}: pass {{"[img1]": path, ...}}')
    paths: dict[str, str] = {}
    for tag, path in tagged.items():
        if not isinstance(tag, str) or not tag.strip():
            raise InputError(f"{where}: tagged has the tag {checks.shown(tag)}: write it as in the question")
        found = media_path(f"{where}: tagged {tag!r}", path)
        if not found or not found.strip():
            raise InputError(f"{where}: tagged {tag!r} names no file: leave the tag out, or name one")
        paths[tag] = found
    order = in_order(question, paths)
    for tag in paths:
        if order.count(tag) != 1:
            raise InputError(
                f"{where}: the tag {tag!r} stands {order.count(tag)} times in the question: each medium has one place"
            )
    return {tag: paths[tag] for tag in order}


def check_names(where: str, names: Any, tagged: Mapping[str, str], options: list[str] | None) -> list[str]:
    """The tags that the options name, one each. Raises InputError where they are not that."""
    given = checks.members(names, 1000)
    if given is None or not all(isinstance(name, str) for name in given):
        raise InputError(f"{where}: names is {checks.shown(names)}: pass a list with the tag that each option names")
    if options is None or len(given) != len(options):
        raise InputError(f"{where}: names has {len(given)} tags for {len(options or ())} options: give one for each")
    if unknown := [name for name in given if name not in tagged]:
        raise InputError(f"{where}: names has {unknown[0]!r}, which is none of the tags {list(tagged)}")
    if len(set(given)) < len(given):
        raise InputError(f"{where}: names has one tag twice ({', '.join(given)}): each option names another medium")
    return given
