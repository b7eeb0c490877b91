"""What `avflow doctor --vllm` says: whether vLLM is there, finds the plug-in, and would take a schedule here."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from typing import Any

from avflow.errors import InputError
from avflow.weights import folder

from . import compat
from .settings import KEY

GROUP, NAME = "vllm.general_plugins", "avflow"


def examine(problems: list[str]) -> dict[str, Any]:
    """Facts, by name; adds to `problems` what keeps a schedule from being served, each with its mend."""
    facts: dict[str, Any] = {"vLLM": compat.installed_version() or "not installed"}
    if compat.installed_version() is None:
        problems.append("vLLM is not installed: pip install 'avflow[vllm]', in an environment of its own")
        return facts
    facts["plug-in"] = _plug_in(problems)
    try:
        compat.check_version()
    except InputError as error:
        problems.append(str(error))
        return facts
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # vLLM's log
            return facts | _engine(problems) | {"architectures": list(compat.MODELS)}
    except Exception as error:  # a broken installation raises whatever its import code does
        problems.append(f"vLLM cannot be used ({type(error).__name__}: {error}): install it anew")
        return facts


def _plug_in(problems: list[str]) -> str:
    """As vLLM looks for it."""
    if not any(point.name == NAME for point in importlib.metadata.entry_points(group=GROUP)):
        problems.append(f"avflow's entry point in {GROUP} is not there: install avflow anew, in vLLM's environment")
        return "not registered"
    wanted = os.environ.get("VLLM_PLUGINS")
    if wanted is not None and NAME not in [name.strip() for name in wanted.split(",")]:
        problems.append(f"VLLM_PLUGINS = {wanted!r} leaves avflow's plug-in out: add {NAME} to it")
        return "registered, and left out by VLLM_PLUGINS"
    return "registered"


def _engine(problems: list[str]) -> dict[str, Any]:
    """A configuration as `vllm serve` makes it; then the plug-in's own word on it, with a schedule."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    from .refusals import check_config, untried

    config = EngineArgs(model=str(folder("tiny-omni")), max_model_len=512).create_engine_config()
    facts = {
        "device": str(current_platform.device_type),
        "model runner": "V2" if config.use_v2_model_runner else "V1",
        "a schedule": "taken",
        "refused with a schedule": list(untried(config)),
    }
    config.additional_config = {KEY: {"media": 5}}
    try:
        check_config(config)
    except InputError as error:
        facts["a schedule"] = "refused"
        problems.append(str(error))
    return facts
