"""What this installation is made of and which paths it takes: look here first when something is slow or odd."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from typing import Any, Literal

from .self_check import checked_models

PACKAGES = ("torch", "transformers", "torchvision", "av", "numpy", "pyarrow", "matplotlib", "typer", "tqdm", "pandas")
OPTIONAL = {"torchvision", "pandas"}
CODECS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "flac", "opus", "vorbis", "pcm_s16le")
NEEDED_CODECS = {"h264", "aac"}


def examine(vllm: bool = False) -> dict[str, Any]:
    """Facts by section; `problems` lists what keeps avflow from working, each with its mend. vllm: a section on it."""
    problems: list[str] = []
    facts = {
        "system": _system(),
        "versions": _versions(problems),
        "torch": _torch(problems),
        "kernels": _kernels(problems),
        "processor": _processor(problems),
        "codecs": _codecs(problems),
        "the model's own forward": checked_models(problems),
    }
    if vllm:
        facts["vLLM"] = _vllm(problems)
    return facts | {"problems": problems}


def _vllm(problems: list[str]) -> dict[str, Any]:
    """By the plug-in, which is a package of its own, and is found as vLLM finds it."""
    points = [p for p in importlib.metadata.entry_points(group="vllm.general_plugins") if p.name == "avflow"]
    if not points:
        problems.append("the plug-in for vLLM is not registered: install avflow anew (pip install 'avflow[vllm]')")
        return {"plug-in": "not registered"}
    examine_vllm = importlib.import_module(f"{points[0].module}.doctor").examine
    facts: dict[str, Any] = examine_vllm(problems)
    return facts


def lines(facts: dict[str, Any]) -> list[str]:
    """`facts` of `examine` as text, a section at a time."""
    out = []
    for section, values in facts.items():
        if section == "problems":
            continue
        out.append(section)
        width = max(len(key) for key in values)
        out += [f"  {key:<{width}}  {_shown(value)}" for key, value in values.items()]
    out += [f"problem: {text}" for text in facts["problems"]] or ["no problem found"]
    return out


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _system() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _versions(problems: list[str]) -> dict[str, Any]:
    from .. import __version__
    from ..versions import transformers_problem

    found: dict[str, Any] = {"avflow": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
            if name not in OPTIONAL:
                problems.append(f"{name} is not installed: pip install {name}")
    if found["transformers"] != "not installed" and (old := transformers_problem()) is not None:
        problems.append(old)
    return found


def _torch(problems: list[str]) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch cannot be imported ({error}): install torch 2.11 or later")
        return {"import": "failed"}
    facts: dict[str, Any] = {"threads": torch.get_num_threads(), "cuda": torch.cuda.is_available()}
    if facts["cuda"]:
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def _kernels(problems: list[str]) -> dict[str, Any]:
    """The compiled module, which path each op takes on each device of this machine, and why CUDA is not used."""
    try:
        import avflow_ext

        capabilities = avflow_ext.capabilities()
        from avflow_ext import _C
    except (ImportError, AttributeError) as error:
        problems.append(f"the compiled module cannot be used ({error}): `make ext` or `pip install .` builds it")
        return {"compiled module": "missing"}
    from .. import __version__

    if avflow_ext.__version__ != __version__:
        problems.append(
            f"the compiled module is of avflow {avflow_ext.__version__}, this is {__version__}: "
            "`make ext` or `pip install .` builds it anew"
        )
    facts: dict[str, Any] = {"compiled module": _C.__file__, "compiled from": f"avflow {avflow_ext.__version__}"}
    facts |= {k: v for k, v in capabilities.items() if k not in ("cuda", "ops")}
    for op, paths in capabilities["ops"].items():
        facts[op] = [f"{device} {path or 'none'}" for device, path in paths.items()]
    cuda = capabilities["cuda"]
    if cuda is None:
        return {**facts, "cuda": "not used: built without it, since no nvcc was found or AVFLOW_CUDA=0 was set"}
    facts["cuda"] = f"not used: {cuda['why']}" if cuda["path"] is None else cuda["path"]
    facts["cuda built"] = [f"CUDA {cuda['runtime']}", *cuda["archs"]]
    for i, gpu in enumerate(cuda["devices"]):
        facts[f"cuda:{i}"] = f"{gpu['name']}, {gpu['path'] or 'no kernel for it'}"
    return facts


def _processor(problems: list[str]) -> dict[str, Any]:
    """How the media processors of transformers get their image operations."""
    before = "torchvision" in sys.modules
    try:
        from ..models.compat import _LIBRARIES, declare_torchvision

        declare_torchvision()
        import torchvision
    except ImportError as error:  # nothing is amiss: models.qwen2_5_omni.processor does without
        return {"torchvision": f"not used ({error})", "path": "avflow's own image operations, in plain torch"}
    except Exception as error:  # a broken build raises whatever its import code does
        problems.append(f"torchvision is broken ({type(error).__name__}: {error}): install the build for this torch")
        return {"torchvision": "broken"}
    whole = not _LIBRARIES
    how = "its compiled part loads" if whole else "its compiled part is for another torch; its torch-only part is used"
    return {"torchvision": torchvision.__version__ + (" (already imported)" if before else ""), "path": how}


def _codecs(problems: list[str]) -> dict[str, Any]:
    try:
        import av
        import av.codec
    except ImportError as error:
        problems.append(f"PyAV cannot be imported ({error}): pip install av")
        return {"PyAV": "missing"}
    found = {}
    for name in CODECS:
        can = []
        modes: tuple[tuple[Literal["r", "w"], str], ...] = (("r", "read"), ("w", "write"))
        for mode, word in modes:
            try:
                av.codec.Codec(name, mode)
                can.append(word)
            except (ValueError, av.error.FFmpegError):
                pass
        found[name] = " and ".join(can) or "no"
        if name in NEEDED_CODECS and "read" not in can:
            problems.append(f"PyAV cannot read {name}: install the PyAV wheel from PyPI, which carries it")
    return found
