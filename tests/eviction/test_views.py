"""What a policy is told of the tokens: media, places, groups; and the rule that compares frames, by hand."""

from __future__ import annotations

import evict_cases
import numpy as np
import pytest
import torch

from avflow.errors import InputError
from avflow.eviction.policies import Changed, View
from avflow.eviction.schedule import EvictionSchedule, Step
from avflow.eviction.views import Labels, views
from avflow.planning.savings import kept_counts
from avflow.prompts.groups import GroupTable

#        two videos of two frames, the first with sound between its frames, a mark between the videos
NAMES = ["system", *["video"] * 4, "audio", "audio", *["video"] * 4, "template", *["video"] * 4, "audio", "last"]
ITEMS = [-1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, -1, 2, 2, 3, 3, 1, -1]


STEP = Step("video", 0)


def labels() -> Labels:
    table = GroupTable()
    return Labels(table, table.ids(NAMES), np.array(ITEMS, np.int32))


def test_media_and_places():
    assert labels().media().tolist() == [-1, *[0] * 10, -1, *[1] * 5, -1]
    places = labels().places().tolist()
    assert places[1:11] == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3] and places[12:17] == [0, 1, 0, 1, 0]


def test_frames_that_stand_apart_are_one_medium():
    """As in Qwen3-VL and InternVL: every frame after its time, or its number, in words."""
    frame, table = ["template", "video", "video"], GroupTable()
    names = [*frame * 3, "question_text", *frame * 2, "template", "image", "template", "image"]
    items = [-1, 0, 0, -1, 1, 1, -1, 2, 2, -1, -1, 3, 3, -1, 4, 4, -1, 0, -1, 1]
    found = Labels(table, table.ids(names), np.array(items, np.int32))
    assert found.media().tolist() == [-1, 0, 0] * 3 + [-1] + [-1, 1, 1] * 2 + [-1, 2, -1, 3]
    assert found.places()[[1, 2, 4, 5, 7, 8]].tolist() == [0, 1] * 3


def test_two_videos_of_one_frame_are_two_media():
    """Where a video is one run, by the family; else by their times, each of which counts from its own begin."""
    table = GroupTable()
    names = ["video", "video", "template", "template", "video", "video", "last"]
    group, item = table.ids(names), np.array([0, 0, -1, -1, 1, 1, -1], np.int32)
    two, one = [0, 0, -1, -1, 1, 1, -1], [0, 0, -1, -1, 0, 0, -1]
    assert Labels(table, group, item, frames_apart=False).media().tolist() == two
    nan = np.nan
    for again, found in ((0.3, two), (0.1, two), (1.4, one)):
        time = np.array([0.3, 0.3, nan, nan, again, again, nan])
        assert Labels(table, group, item, time).media().tolist() == found
    for unknown in (None, np.full(7, nan)):
        assert Labels(table, group, item, unknown).media().tolist() == one


def test_a_video_of_many_frames_a_second_is_one_medium():
    """Its frames' times are words of one digit, of which some say the same."""
    table = GroupTable()
    names = ["video", "template"] * 6 + ["last"]
    item = np.array([0, -1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1, -1], np.int32)

    def media(*times):
        time = np.full(len(names), np.nan)
        time[:12:2] = times
        return Labels(table, table.ids(names), item, time).media()[:12:2].tolist()

    assert media(0.0, 0.1, 0.2, 0.2, 0.3, 0.3) == [0] * 6
    assert media(0.0, 0.1, 0.1, 0.0, 0.0, 0.1) == [0, 0, 0, 1, 2, 2]  # two, the second of one frame, then another
    assert media(0.3, 0.3, 0.3, 1.0, 1.0, 0.3) == [0, 1, 2, 2, 2, 3]


def test_a_model_whose_videos_are_one_run_each_keeps_the_first_frame_of_both():
    model = evict_cases.model("vl")
    group = model.groups.ids(["video", "video", "template", "template", "video", "video", "last"])
    schedule = EvictionSchedule([Step("video", 0, Changed(0.5))])
    counts = kept_counts(model, schedule, group, np.array([0, 0, -1, -1, 1, 1, -1], np.int32))
    assert counts.tolist() == [7] * model.n_layers  # of one video of two frames, two tokens would leave


def test_a_view_tells_of_its_own_tokens():
    columns = np.array([2, 5, 9, 14], np.int32)
    ((part, view),) = views(
        STEP, labels(), columns, np.arange(1, 17), lambda by: np.arange(4), lambda: torch.ones(4, 2)
    )
    assert part.tolist() == [0, 1, 2, 3] and view.total == 16 and view.orders.tolist() == columns.tolist()
    assert view.items.tolist() == [0, 0, 1, 3] and view.media().tolist() == [0, 0, 0, 1]
    assert view.groups().tolist() == ["video", "audio", "video", "video"] and view.places().tolist() == [1, 0, 2, 0]


def changed(share: float, x: torch.Tensor, columns: np.ndarray) -> list[int]:
    ((_, view),) = views(STEP, labels(), columns, columns, lambda by: np.zeros(0), lambda: x[columns])
    return columns[Changed(share).select(view)].tolist()


VIDEO = np.flatnonzero(np.array(NAMES) == "video")


def test_changed_by_hand():
    """Of 8 and of 4: first frames whole; then what turned most, whatever its length; the earlier among equals."""
    x = torch.zeros(len(NAMES), 2)
    x[:, 0] = 1.0
    x[8] = torch.tensor([0.0, 9.0])  # place 1 of frame 1
    x[10] = torch.tensor([-0.1, 0.0])  # place 3
    x[9] = torch.tensor([50.0, 0.0])  # the same direction
    first = [1, 2, 3, 4, 12, 13]
    assert changed(0.1, x, VIDEO) == first  # never fewer than a frame
    assert changed(0.65, x, VIDEO) == sorted([*first, 10])  # int(5.2), int(2.6)
    assert changed(0.75, x, VIDEO) == sorted([*first, 8, 10, 14])
    assert changed(0.9, x, VIDEO) == sorted([*first, 7, 8, 10, 14])  # 7 and 9 are equal
    assert changed(1.0, x, VIDEO) == VIDEO.tolist()


def test_changed_where_the_token_before_has_left():
    """It counts as new."""
    x = torch.ones(len(NAMES), 2)
    assert changed(0.5, x, np.array([1, 2, 3, 7, 8, 9, 10])) == [1, 2, 3]
    assert 10 in changed(0.6, x, np.array([1, 2, 3, 7, 8, 9, 10]))


def test_changed_compares_frames_of_one_size_alone():
    """VideoLLaMA 3 leaves patches out: the second patch of one frame is not that of the next."""
    table, x = GroupTable(), torch.ones(5, 2)
    one = Labels(table, table.ids(["video"] * 5), np.array([0, 0, 0, 1, 1], np.int32))
    assert one.sizes().tolist() == [3, 3, 3, 2, 2]
    ((_, view),) = views(STEP, one, np.arange(5), np.arange(5), lambda by: np.zeros(5), lambda: x)
    with pytest.raises(InputError, match="frame 0 of a video has 3 tokens, frame 1 has 2: .* take EveryNth"):
        Changed(0.5).select(view)


def test_changed_over_a_gap():
    """The frame before is the number before, not the one that is left: across a gap all is new."""
    table, n = GroupTable(), 6
    item = np.array([0, 0, 2, 2, 3, 3], np.int32)
    one = Labels(table, table.ids(["video"] * n), item)
    x = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2)
    ((_, view),) = views(STEP, one, np.arange(n), np.arange(n), lambda by: np.zeros(n), lambda: x)
    assert np.flatnonzero(Changed(0.7).select(view)).tolist() == [0, 1, 2, 3]


def test_sound_within_a_video_is_compared_with_sound():
    x = torch.ones(len(NAMES), 2)
    x[7:11] = torch.tensor([1.0, -1.0])
    both = np.arange(1, 11)
    assert changed(0.7, x, both) == [1, 2, 3, 4, 5, 6, 7]  # 5 of 8; both of the sound's one item
    assert changed(0.75, x, both) == [1, 2, 3, 4, 5, 6, 7, 8]  # 6 and 2, not 7 of 10


@pytest.mark.parametrize("share", [0, -0.5, 1.5, "0.5", None, float("nan"), True])
def test_bad_shares(share):
    with pytest.raises(InputError, match="Changed.share"):
        Changed(share)


def test_tokens_without_items():
    with pytest.raises(InputError, match=r"Changed\(share=0.5\): token 0 has no item"):
        changed(0.5, torch.ones(len(NAMES), 2), np.array([0, 1]))


def test_a_view_of_ones_own():
    view = View(np.zeros(2, np.int32), np.arange(2, dtype=np.int32), lambda by: np.zeros(2, np.float32))
    with pytest.raises(InputError, match="made without"):
        view.places()
