"""Small host tensors on their way to a device, without making the host wait for what the device is doing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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


def upload_lists(lists: Sequence[np.ndarray], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Lists of integers on `device`, int64 each, by one copy."""
    whole = np.concatenate([np.asarray(one, np.int64) for one in lists])
    return upload(torch.from_numpy(whole), device).split([len(one) for one in lists])
