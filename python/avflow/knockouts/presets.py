"""Named sets of knockouts: the experiments of published studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from .rules import Knockout

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


def preset(name: str) -> list[Knockout]:
    """The knockouts of a preset.

    Raises:
        InputError: an unknown name.
    """
    from .rules import Knockout

    if name not in PRESETS:
        raise InputError(f"preset {name!r}: pass one of {', '.join(PRESETS)}")
    return [Knockout.parse(text) for text in PRESETS[name]]
