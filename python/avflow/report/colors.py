"""Colours and dashes of the figures as the page names them: a colour has one shade on light paper and one on dark."""

from __future__ import annotations

from typing import Any

from ..plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

# page.css holds the two shades of each.
NAMES = {
    BLUE: "blue",
    VERMILLION: "vermillion",
    GREEN: "green",
    SKY: "sky",
    ORANGE: "orange",
    PURPLE: "purple",
    GREY: "grey",
    "#000000": "black",
    "#F3D9A4": "sand",
    "#C8C8C8": "silver",
    "#E4E4E4": "pale",
}


def ink(color: str) -> str:
    """The name of one of the figures' colours."""
    return NAMES[color]


def dashes(linestyle: Any) -> list[float]:
    """matplotlib's (0, (on, off, ...)), in line widths, as SVG's pixels for a line of 2; "solid" as none."""
    return [] if linestyle in ("solid", "-") else [round(2 * length, 1) for length in linestyle[1]]
