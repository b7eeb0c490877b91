"""The modules that torch lists, in its order."""

from __future__ import annotations

from torch import nn

from avflow.models.every_module import every_module


def test_lists_what_torch_lists(omni):
    assert every_module(omni.hf) == list(omni.hf.modules())


def test_shared_and_missing_modules():
    shared = nn.Linear(2, 2)
    root = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), shared)
    root.register_module("none", None)
    root.register_module("itself", root)
    assert every_module(root) == list(root.modules())
    assert every_module(shared) == [shared]
