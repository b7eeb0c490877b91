"""What every token of a video is where each of its steps has marks of its own, and words of its time before them.

As Qwen3-VL writes one: mark, then `<0.2 seconds>`, mark, tokens of the step, mark for every step, then the last mark.
transformers 4 left the first and the last mark out: then the words alone say where a video begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .labels import expand_by

_SECONDS = re.compile(r"<(\d+(?:\.\d+)?) seconds>$")
_LONGEST = 24  # tokens of a time in words, at most

Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class TimedIds:
    """Token ids: the placeholders, and the marks around each image, each step, and all steps of a video."""

    video: int
    image: int
    begin: int
    end: int


@dataclass(frozen=True)
class TimedStep:
    """One step of a video: its tokens, and the words of its time before its first mark, as ranges of positions."""

    tokens: range
    words: range


def expand_timed(plain: Sequence[int], real: Sequence[int], media: TimedIds) -> list[int]:
    """As `labels.expand`: for every real token, the number of the plain token it is, or whose placeholder it came from.

    Raises:
        InputError: they do not line up.
    """

    def after(token: int, at: int) -> int | None:
        if token == media.video:
            return _after_video(real, at, media)
        if token != media.image:
            return None
        while at < len(real) and real[at] == token:
            at += 1
        return at

    return expand_by(plain, real, after)


def _after_video(real: Sequence[int], at: int, media: TimedIds) -> int:
    """Where a video that begins at `at` is over: its last step's mark is followed by the mark of all of them."""
    stop = at
    while stop < len(real):
        if real[stop] == media.end:
            if stop + 1 >= len(real) or real[stop + 1] == media.end:
                return stop + 1
        stop += 1
    return at


def steps_of(ids: Sequence[int], media: TimedIds, decode: Decode | None = None) -> list[TimedStep]:
    """The steps of all videos, in their order.

    decode: ids to text. None: all that stands between two marks is taken for the words of a time.
    """
    steps: list[TimedStep] = []
    at = 0
    while at < len(ids):
        if ids[at] != media.video:
            at += 1
            continue
        stop = at
        while stop < len(ids) and ids[stop] == media.video:
            stop += 1
        mark = at - 1 if at and ids[at - 1] == media.begin else at
        first = mark
        while first and ids[first - 1] not in (media.begin, media.end):
            first -= 1
        if decode is not None:
            first = _words_begin(ids, first, mark, decode)
        elif not first:
            first = mark  # without a mark before them the words are a text's
        steps.append(TimedStep(range(at, stop), range(first, mark)))
        at = stop
    return steps


def _words_begin(ids: Sequence[int], first: int, mark: int, decode: Decode) -> int:
    """Where the words of a time begin, which end before `mark`: not before `first`; `mark` where there are none."""
    whole = _SECONDS.match(decode(list(ids[first:mark]))) if mark - first <= _LONGEST else None
    if whole:
        return first
    starts = range(mark - 1, max(first, mark - _LONGEST) - 1, -1)
    return next((at for at in starts if _SECONDS.search(decode(list(ids[at:mark])))), mark)


def label_timed(ids: Sequence[int], media: TimedIds, decode: Decode | None = None) -> dict[int, tuple[str, int]]:
    """Group and item of every token of images and videos: {position: (group, item)}.

    Video: the item is the step (two frames), counted on from one video to the next; the words of its time and the mark
    before its tokens are "template". Image: its number. decode: as of `steps_of`.
    """
    labels: dict[int, tuple[str, int]] = {}
    for item, step in enumerate(steps_of(ids, media, decode)):
        labels |= dict.fromkeys(range(step.words.start, step.tokens.start), ("template", -1))
        labels |= dict.fromkeys(step.tokens, ("video", item))
    number = -1
    for at, token in enumerate(ids):
        if token == media.image:
            number += at == 0 or ids[at - 1] != media.image
            labels[at] = ("image", number)
    return labels


def times_timed(ids: Sequence[int], media: TimedIds, decode: Decode) -> dict[int, float]:
    """Seconds of every video token, as the words before its step tell them to the model: {position: seconds}."""
    times: dict[int, float] = {}
    for step in steps_of(ids, media, decode):
        found = _SECONDS.search(decode(list(ids[step.words.start : step.words.stop])))
        if found:
            times |= dict.fromkeys(step.tokens, float(found[1]))
    return times


def count_timed_videos(ids: Sequence[int], media: TimedIds, decode: Decode | None = None) -> int:
    """How many videos the ids hold: before a later step's words stands the mark that ends the one before.

    Where no mark stands around all steps (`decode` is needed there), a time that goes back begins a video.
    """
    count, before = 0, -1.0
    for step in steps_of(ids, media, decode):
        if not len(step.words):
            continue
        found = None if decode is None else _SECONDS.search(decode(list(ids[step.words.start : step.words.stop])))
        time = before if found is None else float(found[1])
        begun = step.words.start == 0 or ids[step.words.start - 1] != media.end
        count += begun or time < before
        before = time
    return count
