"""Named sets of knockouts: the experiments of published studies."""

from __future__ import annotations

from collections.abc import Iterable

from ..checks import members, shown
from ..errors import InputError
from .amplification import parsed
from .knockout import Knockout

MOST = 10_000  # knockouts; more is a slip
PRESETS = {
    # Audio-visual video in one stream. The first eight paths are the study's, the rest are Map the Flow's.
    "av_video": (
        "cross:video",
        "cross:audio",
        "audio<->video",
        "video->question",
        "audio->question",
        "question->last",
        "video->last",
        "audio->last",
        "last->last (self)",
        "question_text->last",
        "option_correct->last",
        "option_incorrect->last",
        "video->question_text",
        "question_text->option_correct",
        "video->option_correct",
    ),
    # Candidates, question, reference and option letters, one after the other (arXiv 2606.10147, part B). The question
    # is its text alone: the options stand behind the reference, and have paths of their own.
    "interleaved": (
        "cross:candidates",
        "candidates->reference",
        "question_text->reference",
        "candidates->question_text",
        "reference->last",
        "candidates->last",
        "question_text->last",
        "candidate_correct->option_correct",
        "option_correct->last",
        "option_incorrect->last",
        "candidate_incorrect->option_correct",
        "reference->option_correct",
        "question_text->option_correct",
    ),
    # The eleven paths of Map the Flow (ICLR 2026), for video alone.
    "map_the_flow": (
        "cross:video",
        "video->question",
        "question->last",
        "video->last",
        "last->last (self)",
        "question_text->last",
        "option_correct->last",
        "option_incorrect->last",
        "video->question_text",
        "question_text->option_correct",
        "video->option_correct",
    ),
}
# What is cheap of av_video: the paths that end behind the media, twelve of the fifteen.
PRESETS["after_media"] = tuple(
    path for path in PRESETS["av_video"] if path not in ("cross:video", "cross:audio", "audio<->video")
)


def preset(name: str) -> list[Knockout]:
    """The knockouts of a preset.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"preset {shown(name)}: pass one of {', '.join(PRESETS)}")
    return [Knockout.parse(text) for text in PRESETS[name]]


def as_knockouts(value: str | Knockout | Iterable[str | Knockout]) -> list[Knockout]:
    """A preset's name, a text form, a Knockout or several of these, as a list with distinct names.

    Raises:
        InputError: an unknown form, an empty list, or two knockouts of one name.
    """
    given = [value] if isinstance(value, (str, Knockout)) else members(value, MOST)
    if given is None:
        raise InputError(f"knockouts = {shown(value)}: pass a preset's name, a text form, avflow.Knockout, or several")
    out: list[Knockout] = []
    for one in given:
        if isinstance(one, Knockout):
            out.append(one)
        elif isinstance(one, str):
            out += preset(one) if one in PRESETS else [parsed(one)]
        else:
            raise InputError(f"knockout {shown(one)}: pass a text form or avflow.Knockout")
    if len(given) > MOST:
        raise InputError(f"more than {MOST} knockouts are given: no walk carries as many")
    if not out:
        raise InputError("no knockout is given: pass at least one, or a preset such as 'av_video'")
    names = [k.name for k in out]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"knockout {twice[0]!r} is given twice: drop one, or pass name=... to tell them apart")
    return out
