"""Pictures of a report for docs/: a desktop, a phone, the dark page, paper.

`python tools/screenshots.py avflow-demo/report.html`
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Literal, NamedTuple

from browser import Window, window
from PIL import Image

LIMIT = 300_000  # bytes of a picture


class Shot(NamedTuple):
    """at: the chart whose section is at the top; None: the page's own top. read: the chart at which values are read."""

    name: str
    width: int
    height: int
    scheme: Literal["light", "dark"] = "light"
    media: Literal["screen", "print"] = "screen"
    at: str | None = None
    read: str | None = None


SHOTS = (
    Shot("light", 1280, 1160, read="story"),
    Shot("dark", 1280, 1180, scheme="dark", at="sample"),
    Shot("phone", 390, 1160, read="story"),
    Shot("print", 794, 1123, media="print"),  # A4
)


def small(png: bytes) -> bytes:
    """The same picture, packed as tightly as PNG allows; of at most 256 colours where it would be too large."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for one in (image, image.quantize(256)):
        out = io.BytesIO()
        one.save(out, "PNG", optimize=True)
        if out.tell() <= LIMIT:
            break
    return out.getvalue()


def take(browser: Window, report: Path, shot: Shot) -> bytes:
    page = browser.page
    page.set_viewport_size({"width": shot.width, "height": shot.height})
    page.emulate_media(color_scheme=shot.scheme, media=shot.media)
    browser.open(report)
    if shot.at:
        page.evaluate(f"document.getElementById('{shot.at}').closest('section').scrollIntoView()")
    if shot.read:
        box = page.locator(f"#{shot.read} > svg").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
    return small(page.screenshot())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--to", type=Path, default=Path("docs"))
    given = parser.parse_args()
    with window() as browser:
        for shot in SHOTS:
            png = take(browser, given.report, shot)
            if len(png) > LIMIT:
                raise SystemExit(f"{shot.name}: {len(png)} bytes, more than {LIMIT}")
            path = given.to / f"report-{shot.name}.png"
            path.write_bytes(png)
            print(path, len(png))


if __name__ == "__main__":
    main()
