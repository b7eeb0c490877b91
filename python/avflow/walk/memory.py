"""How many packed rows fit into a memory budget."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..checks import shown
from ..errors import InputError
from ..models.base import Model
from ..models.deepstack import deep_layers
from .chunks import inner_size, mlp_chunk

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MOST_BYTES = 2**60  # more than any machine has, and what 64 bits hold
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(value: int | float | str) -> int:
    """Bytes from a number or a text such as "8GB" or "512 MiB".

    Raises:
        InputError: another text, or no positive amount.
    """
    text = value if isinstance(value, str) else shown(value)
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if isinstance(value, bool) or not match or match[2].upper() not in _UNITS:
        raise InputError(f'memory = {shown(value)}: pass bytes, or a text such as "8GB" or "512MiB"')
    amount = float(match[1]) * _UNITS[match[2].upper()]
    if not 1 <= amount < _MOST_BYTES:
        raise InputError(f"memory = {shown(value)}: pass a positive amount, of less than 2**60 bytes")
    return int(amount)


def available_bytes(device: torch.device) -> int:
    """A default budget: half of the free host memory, or 0.7 of the free device memory."""
    if device.type == "cuda":
        # What torch holds from earlier walks and does not use is free too: without it the second sample of a run would
        # be split into more walks than the first.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.7 * (torch.cuda.mem_get_info(device)[0] + idle))
    free = []
    try:
        text = Path("/proc/meminfo").read_text()
        if found := re.search(r"MemAvailable:\s+(\d+)", text):
            free.append(int(found[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return int(0.5 * max(min(free), 2**28)) if free else 2**31


def row_bytes(model: Model) -> int:
    """Peak bytes per packed row within a layer: residual and norms, q/k/v with rotary temporaries, attention output."""
    e = torch.finfo(model.dtype).bits // 8
    width, q, kv = model.config.hidden_size, model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    return e * (5 * width + 6 * q + 6 * kv + 4 * model.head_dim) + 2 * 4 * width  # the last term: norms work in fp32


def fixed_bytes(model: Model, tokens: int) -> int:
    """Bytes that do not grow with the streams: the captured prompt, with deepstack, and the MLP's widest chunk."""
    e = torch.finfo(model.dtype).bits // 8
    chunk = min(mlp_chunk(model), 4 * tokens)
    states = (1 + deep_layers(model.text_model, model.hf.config)) * model.config.hidden_size
    return e * (tokens * (states + 2 * model.head_dim) + 3 * inner_size(model) * chunk)


def check_budget(model: Model, budget: int | None) -> None:
    """Raises InputError where `budget` bytes are too little for a prompt of any length: one token, one row."""
    if budget is None:
        return
    least = fixed_bytes(model, 1) + row_bytes(model)
    if budget < least:
        raise InputError(f"memory = {budget} bytes is too little for this model: a token alone takes {least} bytes")


def max_rows(model: Model, tokens: int, budget: int) -> int:
    """Packed rows that fit beside `tokens` clean tokens; at least 1: a walk needs a size to be split by."""
    return max(1, (budget - fixed_bytes(model, tokens)) // row_bytes(model))
