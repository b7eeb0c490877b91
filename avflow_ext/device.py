"""What the CUDA kernels need of a device: whether they can run there, and the problem's copy in its memory."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypedDict

import torch

from ._load import _C

if TYPE_CHECKING:
    from ._C import _CudaBuild

# Whose tiles a problem is planned for. "hopper": large ones, for the CUDA kernel of sm_90a, elsewhere for the tall one.
Kernel = Literal["cpu", "cuda", "hopper"]

CUDA_HEAD_DIMS = (64, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # on the CPU
CUDA_DTYPES = (torch.bfloat16, torch.float16)
# Rows x query heads of a kv head from which the Hopper kernel is taken. By the model of docs/performance.md it takes
# 0.3 to 0.8 of the other kernel's time from there on, whatever the rows see; not measured below 8,192 yet.
HOPPER_ROWS = 1024
# Eight times as many where a stream has fewer than this: streams that decode share no keys, so that most of a tile that
# holds several is wasted.
HOPPER_ROWS_OF_A_STREAM = 64
# From so many on large tiles are planned for the tall kernel, on devices that do not run Hopper's: 128 of its tiles,
# which with two kv heads are more than a device takes at once (216 on an A100, 170 on an RTX 5090). No device has timed
# it yet.
TALL_ROWS = 16384

_hopper: dict[int, bool] = {}  # whether a device runs the Hopper kernel; a plain dict, which a trace can look into


def runs_hopper(index: int) -> bool:
    """Whether CUDA device `index` runs the kernel that needs sm_90a, and this build has it."""
    if index not in _hopper:
        built = _C.cuda()
        _hopper[index] = bool(built and built["hopper"]) and torch.cuda.get_device_capability(index) == (9, 0)
    return _hopper[index]


def cuda_kernel(index: int, rows: int, heads_per_kv_head: int, streams: int = 1) -> Literal["cuda", "hopper"]:
    """For which CUDA kernel a call of that many rows is planned on device `index`: "hopper", or "cuda" for few rows."""
    packed = rows * heads_per_kv_head
    least = HOPPER_ROWS * (1 if packed >= HOPPER_ROWS_OF_A_STREAM * streams else 8)
    if packed < min(least, TALL_ROWS):  # a trace of few rows does not ask the device
        return "cuda"
    return "hopper" if packed >= (least if runs_hopper(index) else TALL_ROWS) else "cuda"


@contextlib.contextmanager
def taking(kernel: Literal["cuda", "tall", "hopper"]) -> Iterator[None]:
    """All CUDA calls by that kernel, however many rows they have; for tests and measurements."""
    global HOPPER_ROWS, TALL_ROWS
    before = HOPPER_ROWS, TALL_ROWS
    HOPPER_ROWS = TALL_ROWS = 2**31 if kernel == "cuda" else 0
    _C.force_tall(kernel == "tall")
    try:
        yield
    finally:
        HOPPER_ROWS, TALL_ROWS = before
        _C.force_tall(False)


class CudaDevice(TypedDict):
    """One device of `CudaCapabilities`."""

    name: str
    capability: tuple[int, int]
    path: str | None  # "sm80", "sm90", "sm90a", ...; None where nothing compiled runs there


class CudaCapabilities(TypedDict):
    """What `cuda_capabilities` returns."""

    archs: list[str]
    runtime: str
    devices: list[CudaDevice]
    path: str | None
    why: str | None


class DeviceCopy:
    """A host buffer's copy on a CUDA device; the upload is not waited for, the streams that use it are put in order."""

    def __init__(self, host: torch.Tensor, index: int) -> None:
        # From pinned memory, so that the host can go on to the next layer's plan. Torch keeps the pinned block until
        # the copy is done.
        with torch.cuda.device(index):
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "this AttentionProblem is not on the device yet, and a CUDA graph is being captured: call "
                    "attention once with it, or AttentionProblem.packed_on, before the capture"
                )
            self.stream = torch.cuda.current_stream()
            self.tensor = host.pin_memory().to(f"cuda:{index}", non_blocking=True)
            self.done = torch.cuda.Event()
            self.done.record(self.stream)

    def get(self) -> torch.Tensor:
        """The copy, ready for the current stream."""
        if torch.compiler.is_compiling():
            return self.tensor
        stream = torch.cuda.current_stream(self.tensor.device)
        # A capture begins with a device-wide wait (torch.cuda.graph does that), and may not wait for events outside it.
        if stream != self.stream and not torch.cuda.is_current_stream_capturing():
            stream.wait_event(self.done)
            self.tensor.record_stream(stream)
        return self.tensor


def arch_for(capability: tuple[int, int], archs: str) -> str | None:
    """The compiled code that a device of this compute capability runs: "sm90", "ptx80" (compiled by the driver), None.

    Args:
        archs: what was compiled in CMake's words, such as "80-real 90-real 80-virtual".
    """
    built = [(int(number), kind) for number, kind in re.findall(r"(\d+)-(real|virtual)", archs)]
    device = capability[0] * 10 + capability[1]
    real = [number for number, kind in built if kind == "real" and number <= device and number // 10 == capability[0]]
    virtual = [number for number, kind in built if kind == "virtual" and number <= device]
    if real:
        return f"sm{max(real)}"
    return f"ptx{max(virtual)}" if virtual else None


def _why_no_device(built: _CudaBuild) -> str | None:
    """What is missing before any device can be asked; None if nothing is."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build: install one"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device" + (f" (the runtime says: {built['error']})" if built["error"] else "")
    if built["error"] or built["devices"] == 0:
        version = ".".join(map(str, built["runtime"]))
        error = built["error"] or "no CUDA-capable device is detected"
        return f"avflow's CUDA {version} runtime says: {error}; update the driver, or build with an older nvcc"
    return None


def cuda_capabilities() -> CudaCapabilities | None:
    """{"archs", "runtime", "devices": [{"name", "capability", "path"}], "path", "why"}; None if built without CUDA.

    `path` is that of the current device: "sm80", "sm90", ..., or "sm90a" where the Hopper kernel runs too, for
    attention of many rows. Where it is None, `why` names what is missing.
    """
    built = _C.cuda()
    if built is None:
        return None
    why, path = _why_no_device(built), None
    devices: list[CudaDevice] = []
    if why is None:
        for index in range(torch.cuda.device_count()):
            capability = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            path = "sm90a" if runs_hopper(index) else arch_for(capability, built["archs"])
            devices.append({"name": name, "capability": capability, "path": path})
        current = devices[torch.cuda.current_device()]
        path, why = current["path"], _why_no_code(current, built["archs"])
    return {
        "archs": built["archs"].split(),
        "runtime": ".".join(map(str, built["runtime"])),
        "devices": devices,
        "path": path,
        "why": why,
    }


def _why_no_code(device: CudaDevice, archs: str) -> str | None:
    if device["path"] is not None:
        return None
    number = "".join(map(str, device["capability"]))
    if device["capability"] < (8, 0):
        return f"{device['name']} is sm_{number}: the CUDA kernels need sm_80 or later"
    return f"built for {archs}, but {device['name']} is sm_{number}: build with AVFLOW_CUDA_ARCHS={number}, or unset it"


@functools.lru_cache
def why_not_cuda(index: int) -> str | None:
    """Why the attention op cannot run on CUDA device `index`; None where it can. Asked once per device."""
    found = cuda_capabilities()
    if found is None:
        return "avflow was built without CUDA: build it again where nvcc is found (AVFLOW_CUDA=1 insists on that)"
    if not found["devices"]:
        return found["why"]
    return _why_no_code(found["devices"][index], " ".join(found["archs"]))


def check_cuda(q: torch.Tensor) -> None:
    """Raises what keeps the CUDA kernels from taking q, with the mend."""
    if why := why_not_cuda(q.device.index):
        raise NotImplementedError(f"no attention kernel for {q.device}: {why}; or move q, k, v to the CPU")
    if q.dtype not in CUDA_DTYPES:
        raise TypeError(
            f"q, k, v are {q.dtype} on {q.device}: the CUDA kernels take bfloat16 and float16; convert them, or move "
            "them to the CPU"
        )
    if q.shape[2] not in CUDA_HEAD_DIMS:
        raise ValueError(
            f"head_dim {q.shape[2]} on {q.device}: the CUDA kernels have {' and '.join(map(str, CUDA_HEAD_DIMS))}; pad "
            "q, k, v with zeros and pass scale, or move them to the CPU"
        )
