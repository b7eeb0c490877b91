"""A progress bar that also moves within a sample: one walk over a long video may take an hour."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .streams import printable

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} {unit}s [{elapsed}<{remaining}, {rate_fmt}]"
_OPEN = "{desc}: {n:.1f} {unit}s [{elapsed}, {rate_fmt}]"  # how many there are is not known


class Progress:
    """Samples done, with rate and time left, on stderr. A log file gets a line now and then, a terminal a moving bar,
    a notebook its own kind of bar (text where ipywidgets is not installed).

    Rate and time left are told from the first finished sample on, and count from when work on it was begun: a model
    that loads for minutes is no measure of what a sample takes.

    Args:
        total: samples; None where nobody knows. done: of these, finished before. doing: a word before the bar.
    """

    def __init__(
        self, total: int | None, done: int = 0, unit: str = "sample", quiet: bool = False, doing: str = "sweep"
    ) -> None:
        kind, alive = _kind_of_bar()
        gone = sys.stderr is None  # closed by whoever started this process
        interval = 0.2 if alive or not gone and sys.stderr.isatty() else 10
        layout = _OPEN if total is None else _FORMAT
        options: dict[str, Any] = dict(desc=doing, unit=unit, mininterval=interval, bar_format=layout)
        self._done, self._begun, self._shown = float(done), 0.0, float(done)
        self._before, self._since = float(done), time.monotonic()
        self._working = False
        try:
            self._bar = kind(total=total, initial=done, disable=quiet or gone, **options)
        except OSError:  # a pipe without a reader
            self._bar = kind(disable=True)
        self._bar.pace = self._pace

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        with self._reader_may_be_gone():
            self._bar.close()

    def begin(self, samples: int) -> Callable[[float], None]:
        """`samples` are worked on together from here; the result takes the share of that work that is newly done."""
        self._begun = 0.0
        if not self._working:
            self._working, self._since = True, time.monotonic()

        def tick(share: float) -> None:
            self._begun = min(self._begun + share * samples, float(samples))
            self._show()

        return tick

    def finish(self, samples: int = 1) -> None:
        """That many are done."""
        self._done += samples
        self._begun = max(0.0, self._begun - samples)
        self._show()

    def write(self, line: str) -> None:
        """A line beside the bar; control characters as their escapes."""
        if sys.stderr is not None:
            with self._reader_may_be_gone():
                self._bar.write(printable(line), file=sys.stderr)

    def _pace(self) -> float:
        """Samples a second; 0 (which is shown as "?") until one is finished."""
        if self._done <= self._before:
            return 0.0
        return (self._shown - self._before) / max(time.monotonic() - self._since, 1e-9)

    def _show(self) -> None:
        now = max(self._shown, self._done + self._begun)  # never backwards
        step, self._shown = now - self._shown, now
        with self._reader_may_be_gone():
            self._bar.update(step)

    @contextmanager
    def _reader_may_be_gone(self) -> Iterator[None]:
        """A bar that nobody sees any more (a closed or broken pipe, a full log file) must not end hours of work."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._bar.disable = True


def _kind_of_bar() -> tuple[Any, bool]:
    """tqdm's bar for where this runs, with a `pace` of ours instead of its rate; and whether it is a notebook's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets, which gets text
        from tqdm.auto import tqdm as chosen

    class Bar(chosen):
        pace = staticmethod(lambda: 0.0)

        @property
        def format_dict(self) -> Any:
            return super().format_dict | {"rate": self.pace()}

    return Bar, any(base.__module__ == "tqdm.notebook" for base in chosen.__mro__)
