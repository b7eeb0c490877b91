"""What is sent to a device goes there from pinned memory, and as seldom as may be; no device is needed to see it."""

from __future__ import annotations

import tiny
import torch

import avflow
from avflow import uploads
from avflow.models import inputs
from avflow.uploads import upload
from avflow.walk import walk


class Host:
    """Stands for a tensor in host memory; notes what is done to it."""

    device = torch.device("cpu")

    def __init__(self):
        self.done = []

    def pin_memory(self):
        self.done.append("pinned")
        return self

    def to(self, device, **how):
        self.done.append((str(device), how))
        return self


def test_the_host_does_not_wait_for_a_device():
    for_device, for_cpu = Host(), Host()
    upload(for_device, torch.device("cuda"))
    upload(for_cpu, torch.device("cpu"))
    assert for_device.done == ["pinned", ("cuda", {"non_blocking": True})]
    assert for_cpu.done == [("cpu", {})]


def test_media_are_sent_from_pinned_memory(omni, monkeypatch):
    prompt, sent = tiny.av_prompt("interleaved"), []
    monkeypatch.setattr(inputs, "upload", lambda tensor, device: sent.append(tensor) or tensor)
    found = inputs.forward_inputs(omni, prompt)
    tensors = [value for value in found.values() if isinstance(value, torch.Tensor)]
    assert {"pixel_values_videos", "input_features"} <= set(found)
    assert [id(one) for one in sent] == [id(one) for one in tensors]


def test_a_walk_sends_its_lists_at_once(omni, monkeypatch):
    """Rows that join in any layer, what is predicted, what is wanted: one copy, however many layers there are."""
    counts = {"lists": 0, "single": 0}

    def counted(name, run):
        def call(*given):
            counts[name] += 1
            return run(*given)

        return call

    monkeypatch.setattr(walk, "upload_lists", counted("lists", uploads.upload_lists))
    monkeypatch.setattr(walk, "upload", counted("single", uploads.upload))
    prompt = tiny.av_prompt("interleaved")
    for window in (1, 4):
        counts.update(lists=0, single=0)
        avflow.sweep(omni, prompt, ["video->last", "audio->last"], window=window, select="all")
        assert counts == {"lists": 1, "single": 1}
