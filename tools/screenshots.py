"""Two pictures of a report for docs/, light and dark: `python tools/screenshots.py avflow-demo/report.html`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Literal

from browser import window
from PIL import Image

LIMIT = 300_000  # bytes of a picture


def small(png: bytes) -> bytes:
    """The same picture, packed as tightly as PNG allows."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--to", type=Path, default=Path("docs"))
    given = parser.parse_args()
    with window(1180, 1120) as browser:
        shots: tuple[tuple[Literal["light", "dark"], str], ...] = (("light", "flow"), ("dark", "plan-accuracy"))
        for scheme, first in shots:
            browser.page.emulate_media(color_scheme=scheme)
            browser.open(given.report)
            # The section of this chart at the top, or the page's own top; and the values at a layer.
            browser.page.evaluate(f"document.getElementById('{first}').closest('section').scrollIntoView()")
            svg = f"[...document.querySelectorAll('#{first} .chart > svg, #{first} > svg')].slice(0, 2).pop()"
            box = browser.page.evaluate(
                f"(({{x, y, width, height}}) => [x, y, width, height])({svg}.getBoundingClientRect())"
            )
            browser.page.mouse.move(box[0] + 0.45 * box[2], box[1] + 0.5 * box[3])
            png = small(browser.page.screenshot())
            if len(png) > LIMIT:
                raise SystemExit(f"{scheme}: {len(png)} bytes, more than {LIMIT}")
            path = given.to / f"report-{scheme}.png"
            path.write_bytes(png)
            print(path, len(png))


if __name__ == "__main__":
    main()
