"""What Triton asks of a backend's driver."""

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase


class InterpretedDriver(DriverBase):
    def __init__(self):  # DriverBase's would build a module of C
        pass

    @classmethod
    def is_active(cls):
        return True

    def get_current_target(self):
        return GPUTarget("cpu", "cpu", 1)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_device_interface(self):
        return torch.cpu

    def map_python_to_cpp_type(self, name):
        return name

    def get_benchmarker(self):
        return lambda call, **options: 0.0


InterpretedDriver.__abstractmethods__ = frozenset()  # as in compiler.py
