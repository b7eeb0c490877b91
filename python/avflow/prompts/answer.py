"""Which of the options an answer means: by its letter, by its text, or by both where they agree.

What can be read in two ways is refused: a sweep over the wrong option looks like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import InputError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# "A. red", "(B) green", "C: blue", "A.red"; not "A.D.", whose letters are initials.
_PREFIX = re.compile(r"^\s*\(?([A-Za-z])\s*(?:[):]|\.(?![A-Za-z](?:\.|\s*$)))\s*")
# Full-width forms, as Chinese sets write them ("\uff21", "\uff08A\uff09"), their full stop and comma of enumeration:
# one character for one, so that places in the text stay.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3002: ".", 0x3001: ":", 0x3000: " "}


def half_width(text: str) -> str:
    """The text with full-width letters, brackets and stops as ASCII ones, as long as it was."""
    return text.translate(_HALF_WIDTH)


def without_letters(options: list[str]) -> list[str]:
    """The options without "A. ", "B. " ..., where every option carries its own letter in order.

    Raises:
        InputError: some do and some do not, so that the prompt's own letters would stand beside theirs.
    """
    prefixes = [_PREFIX.match(half_width(o)) for o in options]
    own = [m is not None and m.group(1).upper() == letter for m, letter in zip(prefixes, LETTERS, strict=False)]
    if all(own):
        return [o[m.end() :].strip() for o, m in zip(options, prefixes, strict=True) if m]
    begun = all(o[:1].upper() == letter for o, letter in zip(map(half_width, options), LETTERS, strict=False))
    if sum(own) > 1 or (own[:1] == [True] and begun):
        other = options[own.index(False)]
        raise InputError(
            f"the options carry letters of their own, but {other!r}, which is number {own.index(False) + 1}, does not "
            f"carry {LETTERS[own.index(False)]}: mend the letters, or leave all of them out"
        )
    return options


def letter_index(answer: str, options: int) -> int | None:
    """Number of the option, from 0, where an answer is a letter of so many options and nothing else: "B", "(b)", "B.",
    "\uff22"; None where it is not."""
    letter = half_width(answer).strip("().: ").upper()
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS[:options] else None


def check_order(options: Sequence[str]) -> None:
    """Raises InputError where every option carries a letter of the first ones, in another order than theirs."""
    letters = [m.group(1).upper() for o in options if (m := _PREFIX.match(half_width(o)))]
    first = list(LETTERS[: len(options)])
    if len(letters) == len(options) and letters != first and sorted(letters) == first:
        raise InputError(f"the options carry the letters {', '.join(letters)}: put them in order")


def option_index(answer: str, options: Sequence[str]) -> int:
    """Number of the option, from 0, that `answer` (stripped, not empty) means.

    A letter counts alone ("B", "(b)", "B."), or before the text of its own option ("B. green"). Before any other text
    it is no letter: "C. Elegans" is not option C. Letter case and a full stop at the end make no difference to a
    text that no option equals otherwise.

    Raises:
        InputError: no option; several; a letter that another option carries as its own.
    """
    narrow = half_width(answer)
    prefix = None if answer in options else _PREFIX.match(narrow)
    rest = answer[m.end() :] if (m := _PREFIX.match(narrow)) else answer
    found = {n for n, option in enumerate(options) if option in (answer, rest)}
    letter = prefix.group(1).upper() if prefix else narrow.strip("().: ").upper()
    place = LETTERS[: len(options)].find(letter) if len(letter) == 1 else -1
    if place >= 0 and not (prefix and rest):
        _check_own_letters(answer, letter, place, options)
        found.add(place)
    elif place >= 0 and (found or _loose(rest) == _loose(options[place])):
        found.add(place)
    if not found:
        found = {n for n, option in enumerate(options) if _loose(option) == _loose(answer)}
    if not found and prefix and (by_rest := {n for n, o in enumerate(options) if _loose(o) == _loose(rest)}):
        found = by_rest | ({place} if place >= 0 else set())
    if not found:
        raise InputError(
            f"an option list without the answer: {answer!r} is neither a letter A to {LETTERS[len(options) - 1]} nor "
            f"one of {list(options)}"
        )
    if len(found) > 1:
        raise InputError(f"answer {answer!r} fits the options {[LETTERS[n] for n in sorted(found)]}: write one letter")
    return found.pop()


def _check_own_letters(answer: str, letter: str, place: int, options: Sequence[str]) -> None:
    """Of the options "B. red" and "A. blue", "A" may be the first one or the one that says so."""
    own = [(m.group(1).upper(), n) for n, option in enumerate(options) if (m := _PREFIX.match(option))]
    letters = [one for one, _ in own]
    if letter in letters and len(set(letters)) == len(letters) and (other := dict(own)[letter]) != place:
        raise InputError(
            f"answer {answer!r} may be {options[place]!r}, which is number {place + 1}, or {options[other]!r}, which "
            "carries that letter: write the option's text as the answer, or the options without their letters"
        )


def _loose(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
