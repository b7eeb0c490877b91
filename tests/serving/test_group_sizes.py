"""vLLM's KV cache groups, as arithmetic. Needs no vLLM; test_served_counts.py compares with the engine's own."""

import pytest

from avflow.eviction.vllm_groups import count, memory, nearest, segments, warning


@pytest.mark.parametrize(
    "layers, boundaries, groups, real, ideal",
    [
        (36, (26, 29), 12, 0.775, 0.775),  # the study's on Qwen2.5-Omni-3B
        (36, (17,), 2, 0.55, 0.55),
        (36, (11,), 3, 0.4, 0.4),
        (36, (26,), 4, 0.775, 0.775),
        (36, (24,), 4, 0.947, 0.725),
        (28, (18,), 4, 0.996, 0.711),
        (12, (5,), 2, 0.55, 0.55),
        (12, (-1,), 1, 0.1, 0.1),  # before layer 0: no layer holds all
        (12, (-1, 3), 3, 0.1, 0.1),
    ],
)
def test_memory(layers, boundaries, groups, real, ideal):
    assert count(layers, boundaries) == groups
    assert memory(layers, boundaries) == pytest.approx((real, ideal), abs=6e-4)


def test_segments():
    assert segments(36, (26, 29)) == [27, 3, 6]


def test_the_nearest_boundary_that_saves_what_it_should():
    assert nearest(36, (24,)) == [(23,), (26,)]
    text = warning(36, (24,))
    assert "95% of the plain" in text and "should take 73%" in text and "23 (70%); 26 (77%)" in text
    assert warning(36, (26,)) is None


def test_what_leaves_before_layer_0_pads_too_little_for_a_word():
    assert segments(12, (-1, 4)) == [0, 5, 7]
    assert not any(warning(36, (-1, after)) for after in range(35))
