"""What a test may not leave behind for those that follow in its process: settings that all of them share."""

from __future__ import annotations

import os
import random
import signal
import sys
from typing import Any

import numpy as np
import torch

from avflow_ext import device
from avflow_ext._load import _C

PYTEST_OWN = "PYTEST_CURRENT_TEST"  # which pytest itself changes


def seed() -> None:
    """The same random numbers for a test without a seed, whatever drew from the generators before it."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def settings() -> dict[str, Any]:
    """{name: value} of what is set for the whole process."""
    return {
        "torch.get_num_threads": torch.get_num_threads(),
        "torch.get_default_dtype": torch.get_default_dtype(),
        "torch.get_default_device": torch.get_default_device(),
        "torch.is_grad_enabled": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled": torch.is_inference_mode_enabled(),
        "torch.are_deterministic_algorithms_enabled": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "path of the CPU kernels": _C.cpu_isa(),
        "rows from which kernels are taken": (device.HOPPER_ROWS, device.HOPPER_ROWS_OF_A_STREAM, device.TALL_ROWS),
        "folder": os.getcwd(),
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each setting that is another one."""
    return [f"{name}: {after[name]}, was {was}" for name, was in before.items() if after[name] != was]


class Surroundings:
    """What libraries change on their own, when imported or run: it is put back, whoever changed it."""

    def __init__(self) -> None:
        self.environment, self.path = dict(os.environ), list(sys.path)
        drawing = sys.modules.get("matplotlib")
        self.drawing = drawing and dict.copy(drawing.rcParams)
        self.signals = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}

    def put_back(self) -> None:
        for name in os.environ.keys() - self.environment.keys() - {PYTEST_OWN}:
            del os.environ[name]
        os.environ.update({name: value for name, value in self.environment.items() if name != PYTEST_OWN})
        sys.path[:] = self.path
        if self.drawing:
            dict.update(sys.modules["matplotlib"].rcParams, self.drawing)
        for one, handler in self.signals.items():
            if signal.getsignal(one) is not handler:  # nbclient, where it had been ignored
                signal.signal(one, handler)


class Remembered:
    """What avflow remembers of a model from run to run: each warning once, which prompts it has counted."""

    def __init__(self, model: Any):
        self.model, self.warned = model, set(model.warned)
        self.read, self.check, self.check_every = model.read, model.check, model.check_every

    def put_back(self) -> None:
        self.model.warned.clear()
        self.model.warned.update(self.warned)
        self.model.read, self.model.check, self.model.check_every = self.read, self.check, self.check_every
