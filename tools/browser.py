"""A page in a headless Chromium, by Playwright: the one on PATH, or the program that AVFLOW_CHROMIUM names.

Playwright's own browsers are not used: they would have to be downloaded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Nothing but the page itself is asked for; it draws the same colours everywhere.
FLAGS = (
    "--no-sandbox --disable-gpu --hide-scrollbars --force-color-profile=srgb --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def find() -> str | None:
    """The program, or None where there is none."""
    named = os.environ.get("AVFLOW_CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Window:
    """page: Playwright's. console: texts of warnings, errors and uncaught exceptions. requests: addresses asked for."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("console", self._log)

    def _log(self, message: ConsoleMessage) -> None:
        if message.type in ("warning", "error", "assert"):
            self.console.append(message.text)

    def open(self, path: str | Path) -> None:
        """Load a file and wait until it is drawn."""
        self.page.goto(Path(path).absolute().as_uri())
        self.page.evaluate(DRAWN)


@contextmanager
def window(width: int = 1200, height: int = 900) -> Iterator[Window]:
    """A window of `width` x `height` pixels in a browser of its own.

    Raises:
        FileNotFoundError: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    program = find()
    if program is None:
        raise FileNotFoundError(f"none of {', '.join(NAMES)} is on PATH: install chromium or set AVFLOW_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield Window(browser.new_page(viewport={"width": width, "height": height}))
        finally:
            browser.close()
