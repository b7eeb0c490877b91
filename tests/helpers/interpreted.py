"""Model Runner V2, which is a GPU's, on a CPU: Triton in a folder of its own beside vLLM, and its interpreter.

`VLLM_USE_V2_MODEL_RUNNER=1 pytest tests/serving` runs every test that way. Triton is not where vLLM finds it without
this: the other runner's engines are to be those of a CPU that has none.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import torch

TRITON = Path(sysconfig.get_path("purelib")).parents[2] / "triton"  # tests/serving/setup.sh puts it there
BACKEND = Path(__file__).parents[1] / "serving/interpreter"
V2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"


def switch_on() -> None:
    """For this process and its children; before vLLM is imported. Nothing on a machine with a GPU."""
    if torch.cuda.is_available():
        return
    paths = [str(TRITON), str(BACKEND)]
    if paths[0] in sys.path:
        return
    sys.path[:0] = paths
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    from triton.runtime.interpreter import interpreter_builder as builder

    # As compiled for a GPU: sums are checked for overflows by debug=True alone. A quarter of this process' time.
    builder.options = replace(builder.options, sanitize_overflow=False)
