"""What a notebook shows of a schedule."""

from avflow import EveryNth, EvictionSchedule, Step


def test_steps_in_their_order_and_when():
    html = EvictionSchedule([Step("video", 3, EveryNth(2)), Step("audio", -1), Step("image", 1, until=5)])._repr_html_()
    at = [html.index(text) for text in ("<td>audio</td><td>before layer 0</td>", "<td>image</td>", "<td>video</td>")]
    assert at == sorted(at)
    assert "<td>after layer 1, back after layer 5</td>" in html and "<td>EveryNth(n=2" in html
    assert "<small>" not in html  # nothing was promised


def test_what_a_plan_promises():
    figures = {"accuracy_drop_bound": 0.2212, "prompts": 12, "confidence": 0.95, "kv_saved": 0.66, "flops_saved": 0.5}
    html = EvictionSchedule({"<b>": 1}, {"layers": 12}, figures=figures)._repr_html_()
    assert "accuracy lost below 22.1 points with 95 % confidence, on 12 prompts; 66 % of the cache saved" in html
    assert "of a model of 12 layers" in html and "<td>&lt;b&gt;</td>" in html


def test_a_schedule_without_steps():
    assert "Nothing leaves." in EvictionSchedule({})._repr_html_()
