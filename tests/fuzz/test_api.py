"""The Python API given anything in place of one or two arguments: a result, or an error of ours that says what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from api_calls import arguments, calls
from fuzzing import TEXTS, VALUES, fuzz
from hypothesis import given
from hypothesis import strategies as st

from avflow.errors import AvflowError

ARGUMENTS = list(arguments())
WORDS = ["video", "last", "video->last", "all->last", "correct", "all", "zero", "keep", "drop", "center", "8GB", "sum"]
ITEMS = VALUES | st.sampled_from(WORDS)
ARRAYS = st.builds(
    lambda make, shape, value: make(shape, value),
    st.sampled_from([np.full, torch.full]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([0, 1, -1, 7, 2**40, 0.5, math.nan, True]),
)
ANYTHING = st.one_of(
    ITEMS,
    ARRAYS,
    st.lists(ITEMS | ARRAYS, max_size=4),
    st.lists(ITEMS, max_size=3).map(tuple),
    st.dictionaries(TEXTS | st.sampled_from(WORDS) | st.integers(-1, 4), ITEMS, max_size=3),
    st.sampled_from([b"\xff", bytearray(b"x"), range(3), range(10**5), object(), dict, len, 1j, NotImplemented, ...]),
    st.frozensets(st.integers(-2, 9) | st.sampled_from(WORDS), max_size=3),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Relative paths are nowhere."""
    monkeypatch.chdir(tmp_path)


@fuzz(250)
@given(data=st.data())
def test_wrong_arguments(qwen3, data):
    name, argument = data.draw(st.sampled_from(ARGUMENTS))
    function, good = calls(qwen3)[name]
    values = {argument: data.draw(ANYTHING)}
    if others := [a for n, a in ARGUMENTS if n == name and a not in (argument, "model")]:
        if data.draw(st.booleans()):
            values[data.draw(st.sampled_from(others))] = data.draw(ANYTHING)
    try:
        function(**{**good, **values})
    except AvflowError as error:
        assert 5 < len(str(error)) < 4000
        str(error).encode()
