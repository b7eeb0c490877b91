"""Where the header, the libraries and the CMake package of this installation lie."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def get_include() -> str:
    """The folder to include from: `#include <avflow/avflow.h>`."""
    return str(_HERE / "include")


def get_library_dir() -> str:
    """The folder of libavflow.so.1 and libavflow_torch.so."""
    return str(_HERE / "lib")


def get_cmake_dir() -> str:
    """What CMake's `avflow_DIR` may be, for `find_package(avflow)`."""
    return str(_HERE / "share" / "cmake" / "avflow")


def get_operators() -> str:
    """libavflow_torch.so, which registers torch.ops.avflow.* when it is loaded, in a program without Python too."""
    return str(_HERE / "lib" / "libavflow_torch.so")
