"""How long fuzzers run: a fixed handful of examples in CI, random ones for hours with FUZZ_MINUTES; see tests/fuzz."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

MINUTES = float(os.environ.get("FUZZ_MINUTES") or 0)  # of all fuzzers together; 0: as in CI


def fuzz(examples: int) -> settings:
    """A fuzzer's settings; `examples` in CI, chosen so that all fuzzers together take a minute on a core."""
    quiet: dict[str, Any] = dict(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    if MINUTES:
        # Rounds of so many until the time is up (conftest.py): failures are kept and tried first in the next run.
        kept = DirectoryBasedExampleDatabase(".hypothesis/examples")
        return settings(max_examples=2 * examples, database=kept, derandomize=False, **quiet)
    return settings(max_examples=examples, database=None, derandomize=True, **quiet)


def repeat_examples() -> None:
    """All tests draw the same examples in every run, so that none fails by chance; with FUZZ_MINUTES others."""
    if not MINUTES:
        settings.register_profile("repeatable", derandomize=True, database=None)
        settings.load_profile("repeatable")


TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(), max_size=8),  # lone surrogates too
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "\ud800",
            "a\nb",
            "\x1b[31m",
            "~",
            "~nobody/x",
            "../..",
            "nan",
            "1e999",
            "²",
            "-0",
            "null",
            "A",
            "{x}",
        ]
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31 - 1, 2**31, -(2**31), 2**63 - 1, 2**63, -(2**63) - 1, 10**30, -(10**300)]),
    st.floats(),  # NaN, infinities, -0.0 and the smallest too
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def mutated(good: Any) -> st.SearchStrategy[Any]:
    """A JSON value like `good`, of which one or two parts are something else, are gone, or stand twice."""

    @st.composite
    def draw(draw: Any) -> Any:
        value = good
        for _ in range(draw(st.integers(1, 2))):
            value = _mutate(draw, value)
        return value

    return draw()


def _mutate(draw: Any, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        how = draw(st.sampled_from(["inside", "inside", "inside", "gone", "renamed", "more"]))
        rest = {k: v for k, v in value.items() if k != key}
        if how == "gone":
            return rest
        if how == "renamed":
            return rest | {draw(TEXTS): value[key]}
        if how == "more":
            return value | {draw(TEXTS): draw(VALUES)}
        return value | {key: _mutate(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        return [
            *value[:at],
            *draw(st.sampled_from([[], [value[at]] * 2, [_mutate(draw, value[at])]])),
            *value[at + 1 :],
        ]
    if isinstance(value, int) and not isinstance(value, bool) and draw(st.booleans()):
        return draw(st.sampled_from([value + 1, value - 1, -value, 0, 2 * value, float(value), str(value)]))
    return draw(VALUES)
