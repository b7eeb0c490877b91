"""Small host tensors on their way to a device, without making the host wait for what the device is doing."""

from __future__ import annotations

import torch


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on `device`, in stream order; the tensor itself where it lies there already.

    From pageable memory, torch first waits until the device has done all that was launched: on an H100 an eviction's
    boundary waited 126 ms for the layers before it, and the layers after it, a few rows each, then ran no faster than
    the host could launch them. Torch keeps the pinned block until the copy is done.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
