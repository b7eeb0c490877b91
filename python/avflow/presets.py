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
    "interleaved": (),
    "map_the_flow": (),
}


def preset(name: str) -> list[Knockout]:
    """The knockouts of a preset.

    Raises:
        InputError: an unknown name, or a preset whose token groups no model family labels yet.
    """
    from .rules import Knockout

    if name not in PRESETS:
        raise InputError(f"preset {name!r}: pass one of {', '.join(PRESETS)}")
    if not PRESETS[name]:
        raise InputError(f"preset {name!r} is not there yet: pass its knockouts as a list, or the preset 'av_video'")
    return [Knockout.parse(text) for text in PRESETS[name]]
