"""What goes to a device: from pinned memory, as seldom as may be, large media in pieces that arrive whole."""

from __future__ import annotations

import pytest
import tiny
import torch

import avflow
from avflow import uploads
from avflow.models import inputs
from avflow.uploads import upload
from avflow.walk import walk


class Host:
    """Stands for a tensor in host memory; notes what is done to it."""

    device, layout, nbytes = torch.device("cpu"), torch.strided, 8

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("shape", [(7, 5), (1,), (0, 3), (4, 2, 8)])
def test_pieces_make_the_whole(shape, dtype, monkeypatch):
    monkeypatch.setattr(uploads, "PIECE", 12)
    source = torch.arange(1, 1 + int(torch.tensor(shape).prod())).view(shape).to(dtype)
    pieces: list[torch.Tensor] = []
    out = uploads.in_pieces(source, torch.empty_like(source), lambda piece: pieces.append(piece.clone()) or pieces[-1])
    assert torch.equal(out, source)
    assert all(piece.nbytes <= 12 for piece in pieces) and sum(map(len, pieces)) == source.numel()


def test_columns_of_another_tensor_are_taken_in_order(monkeypatch):
    monkeypatch.setattr(uploads, "PIECE", 8)
    source = torch.arange(24.0).view(4, 6).T  # not contiguous
    assert torch.equal(uploads.in_pieces(source, torch.empty(6, 4), torch.clone), source)


def test_on_a_host_the_tensor_itself():
    x = torch.zeros(3)
    assert uploads.upload(x, torch.device("cpu")) is x
    assert uploads.upload(x, torch.device("meta")).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_large_tensors_arrive(monkeypatch):
    monkeypatch.setattr(uploads, "PIECE", 2**12)
    device = torch.device("cuda")
    for source in (torch.randn(3, 5000), torch.randn(5000, 3).T, torch.arange(9), torch.randn(64, 64).bfloat16()):
        arrived = uploads.upload(source, device)
        assert arrived.device.type == "cuda" and torch.equal(arrived.cpu(), source)
