"""How a path looks in a figure: its label, its panel, its colour and its dashes. A path looks the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

# Okabe and Ito's palette, told apart with any colour vision: a colour per source, so a path looks the same in every
# figure whatever else is drawn.
BLUE, VERMILLION, GREEN, SKY, ORANGE, PURPLE, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#7F7F7F",
)  # fmt: skip
SOURCE_COLORS = {
    "video": BLUE,
    "audio": VERMILLION,
    "image": SKY,
    "question": GREEN,
    "question_text": SKY,
    "options": ORANGE,
    "option_correct": ORANGE,
    "option_incorrect": GREY,
    "candidates": BLUE,
    "candidate_correct": BLUE,
    "candidate_incorrect": GREY,
    "reference": VERMILLION,
    "last": "#000000",
    "media": PURPLE,
}
TARGET_DASHES = {
    "question_text": (0, (5, 1.6)),
    "option_correct": (0, (1.2, 1.4)),
    "option_incorrect": (0, (4, 1.5, 1.2, 1.5)),
    "reference": (0, (5, 1.6)),
}
# Where paths of all panels share one axes, these keep "video->last" and "cross:video" apart from "video->question".
LAST_DASHES, MEDIA_DASHES = (0, (3, 1.2)), (0, (4, 1.2, 1, 1.2, 1, 1.2))
_NAMES = {
    "option_correct": "correct option",
    "option_incorrect": "incorrect options",
    "candidate_correct": "correct candidate",
    "candidate_incorrect": "incorrect candidates",
}
_MEDIA = {"video", "audio", "image", "media", "candidates", "candidate_correct", "candidate_incorrect", "reference"}
PANELS = ("Into the media", "Into the question and options", "Into the last token")
_ENDS = re.compile(r"^(?P<source>[^(]+?)\s*(?P<arrow><->|->)\s*(?P<target>[^(]+?)\s*(?P<rest>\(.*)?$")
_CROSS = re.compile(r"^cross:\s*(?P<group>[^(]+?)\s*(?P<rest>\(.*)?$")
_SPARE_DASHES = (TARGET_DASHES["option_correct"], TARGET_DASHES["question_text"], (0, (7, 2, 2, 2)), (0, (1, 0.8)))
_CROSS_NAMES = {"video": "frame → other frames", "audio": "audio segment → other segments"}


def path_label(path: str) -> str:
    """A knockout's name as a figure shows it: "video->question" gives "video → question"."""
    if match := _CROSS.match(path):
        group = match["group"]
        label = _CROSS_NAMES.get(group, f"{words(group)} → other {words(group)}")
    elif match := _ENDS.match(path):
        label = f"{words(match['source'])} {'↔' if match['arrow'] == '<->' else '→'} {words(match['target'])}"
    else:
        return path
    rest = (match["rest"] or "").replace("(self)", "").strip()  # last → last has no other edge to cut
    return f"{label} {rest}".strip()


def path_style(path: str, mixed: bool = False) -> dict:
    """Colour (by source) and line style (by target) of a path; the colour is the same in every figure.

    `mixed`: paths of several panels share the axes, so those into the media and the last token get dashes too.
    """
    source, target = _ends(path)
    both = "<->" in path
    color = PURPLE if both else SOURCE_COLORS.get(source)
    if color is None:
        palette = (BLUE, VERMILLION, GREEN, SKY, ORANGE, PURPLE, GREY)
        color = palette[crc32(source.encode()) % len(palette)]
    dashes = TARGET_DASHES.get(target, "solid")
    if mixed and target == "last":
        dashes = LAST_DASHES
    elif mixed and panel_of(path) == PANELS[0]:
        dashes = MEDIA_DASHES
    return {"color": color, "linestyle": dashes}


def panel_of(path: str) -> str:
    """The panel of PANELS a path belongs to, by its target."""
    _, target = _ends(path)
    if target == "last":
        return PANELS[2]
    return PANELS[0] if {*target.split("+")} <= _MEDIA else PANELS[1]


def words(text: str) -> str:
    """A group, or a sum of groups, as a figure shows it: "option_correct" gives "correct option"."""
    return " + ".join(_NAMES.get(part, part.replace("_", " ")) for part in map(str.strip, text.split("+")))


def _ends(path: str) -> tuple[str, str]:
    if match := _CROSS.match(path):
        return match["group"], match["group"]
    match = _ENDS.match(path)
    return (match["source"], match["target"]) if match else (path, "")


def distinct_styles(paths: Sequence[str]) -> list[dict]:
    """path_style of every path; of two that would look the same (a path and its control) the later has other dashes."""
    mixed = len({panel_of(path) for path in paths}) > 1
    styles: list[dict] = []
    for path in paths:
        style = path_style(path, mixed)
        spare = iter(_SPARE_DASHES)
        while style in styles and (dashes := next(spare, None)) is not None:
            style = {**style, "linestyle": dashes}
        styles.append(style)
    return styles
