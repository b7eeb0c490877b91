"""Media on their way to a device: in pieces that arrive whole, whatever their form; nothing else changes."""

from __future__ import annotations

import pytest
import torch

from avflow import uploads


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
