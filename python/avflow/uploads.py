"""Host tensors on their way to a device, without making the host wait for what the device is doing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

PIECE = 2**25  # bytes of a large tensor that are pinned at a time: more takes long to pin


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on `device`, in stream order; the tensor itself where it lies there already.

    From pageable memory, torch first waits until the device has done all that was launched: on an H100 an eviction's
    boundary waited 126 ms for the layers before it, and the layers after it, a few rows each, then ran no faster than
    the host could launch them. Torch keeps the pinned block until the copy is done, and then uses it again.
    """
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return tensor.to(device)
    if tensor.nbytes <= PIECE or tensor.is_pinned():
        return tensor.pin_memory().to(device, non_blocking=True)
    return in_pieces(tensor, torch.empty(tensor.shape, dtype=tensor.dtype, device=device), torch.Tensor.pin_memory)


def in_pieces(tensor: torch.Tensor, out: torch.Tensor, pin: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`out`, contiguous, with the tensor's values: the host copies a piece while the one before is on its way.

    pin: a copy of a piece that the device can read by itself.
    """
    source, target, step = tensor.reshape(-1), out.view(-1), max(1, PIECE // tensor.element_size())
    for piece, place in zip(source.split(step), target.split(step), strict=True):
        place.copy_(pin(piece), non_blocking=True)
    return out


def upload_lists(lists: Sequence[np.ndarray], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Lists of integers on `device`, int64 each, by one copy."""
    whole = np.concatenate([np.asarray(one, np.int64) for one in lists])
    return upload(torch.from_numpy(whole), device).split([len(one) for one in lists])
