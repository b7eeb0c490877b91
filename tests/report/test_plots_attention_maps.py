"""Maps of attention: every part of a prompt has a label that no other covers; heads have a picture of their own."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.text import Text

from avflow import InputError
from avflow.experiments.attention_map import AttentionMap
from avflow.plots.attention_maps import _apart, map_image, share_heads
from avflow.results.schemas import ATTENTION_SHARE

# As a prompt of video with sound is laid out: alternating by the second, narrow parts at the end.
GROUPS = ["template", "system", "template"] + 3 * (4 * ["video"] + 9 * ["audio"])
GROUPS += ["template", "question_text", "option_correct", "option_incorrect", "question_text", "template", "last"]


def attention_map(groups):
    weight = np.tril(np.ones((len(groups), len(groups)), np.float32))
    return AttentionMap("a", [2], np.arange(len(groups) + 1), groups, (weight / weight.sum(1, keepdims=True))[None])


def test_every_part_is_named_and_no_label_covers_another():
    figure, ax = map_image(attention_map(GROUPS), 2)
    figure.canvas.draw()
    names = [text.get_text() for text in ax.texts]
    parts = ["template", "video + audio", "template", "question", "options", "question", "template", "last"]
    assert sorted(names) == sorted(2 * parts)
    left = [text for text in ax.texts if text.get_rotation() == 0]
    boxes = [Text.get_window_extent(text) for text in left]  # without their lines
    for one, other in itertools.combinations(boxes, 2):
        assert min(one.y1, other.y1) - max(one.y0, other.y0) < 1  # pixels
    above = sorted(text.get_position()[0] for text in ax.texts if text.get_rotation() == 40)
    assert np.diff(above).min() > 0.08  # of the axis: they slope


def test_labels_lead_to_the_middle_of_their_part():
    _, ax = map_image(attention_map(["video", "video", "question_text", "last"]), 2)
    at = {text.get_text(): text.xy for text in ax.texts if text.get_rotation() == 0}
    assert at == {"video": (0, 0.75), "question": (0, 0.375), "last": (0, 0.125)}


@pytest.mark.parametrize(
    "places", [[0.5], [0.1, 0.11, 0.12], [0.97, 0.98, 0.99], [0.0, 0.5, 1.0], list(np.full(40, 0.5))]
)
def test_places_are_moved_apart_within_the_axis(places):
    found = _apart(places, 0.05)
    assert np.all(np.diff(found) >= min(0.05, 1 / len(places)) - 1e-9)
    assert min(found) >= -1e-9 and max(found) <= 1 + 1e-9
    assert np.mean(found) == pytest.approx(np.mean(places), abs=0.06)


def test_what_is_far_enough_apart_stays():
    assert _apart([0.1, 0.4, 0.9], 0.05) == pytest.approx([0.1, 0.4, 0.9])


def shares(layers=(0, 1), heads=(0, 1, 2)):
    """Head 1 looks at the video in the last of the layers, all others at the text."""
    rows = []
    for prompt, layer, head in itertools.product("ab", layers, heads):
        video = 0.8 if head == 1 and layer == layers[-1] else 0.1
        rows += [(prompt, "", layer, 0, "", head, g, s) for g, s in (("video", video), ("question_text", 1 - video))]
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), ATTENTION_SHARE, strict=True)]
    return pa.table(columns, schema=ATTENTION_SHARE)


def test_heads_are_rows_and_layers_are_columns():
    figure, (video, text) = share_heads(shares(), first_layer=1)
    assert (video.get_title(loc="left"), text.get_title(loc="left")) == ("video", "question text")
    values = np.asarray(video.collections[0].get_array()).reshape(3, 2)
    np.testing.assert_allclose(values, [[10, 10], [10, 80], [10, 10]])
    assert video.get_xlim() == (0.5, 2.5) and video.get_ylim() == (2.5, -0.5)  # the first head above
    assert "(2 samples)" in figure.get_suptitle() and len(figure.axes) == 3


def test_layers_with_gaps_are_named():
    _, (ax,) = share_heads(shares(layers=(3, 9)), ["video"])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["3", "9"]


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(groups=["audio"]), "no rows of the group 'audio': the table has"),
        (dict(token=3), "no rows of token 3"),
        (dict(groups=[]), "0 groups are to be drawn"),
    ],
)
def test_what_is_not_there_is_said(given, message):
    with pytest.raises(InputError, match=message):
        share_heads(shares(), **given)


def test_means_over_heads_have_no_heads():
    table = shares()
    at = table.column_names.index("head")
    with pytest.raises(InputError, match="--heads"):
        share_heads(table.set_column(at, "head", pa.nulls(table.num_rows, pa.int32())))
