#!/usr/bin/env bash
# Eviction in vLLM on a GPU, in a quarter of an hour: are the answers right with every kernel and kind of CUDA graph, and
# what is saved. A machine with a CUDA build of vLLM 0.32, its transformers, pytest and pytest-timeout, cmake, ninja and
# pybind11; no network. What fails or is stopped is reported, and the rest runs.
#
#     benchmarks/vllm_gpu.sh [--dry-run] OUTPUT_FOLDER [STAGE ...]
#
# OUTPUT_FOLDER is benchmarks/results/DEVICE. It receives vllm_summary.txt, vllm_log.txt, vllm_half.txt (how far half
# precision is from float32) and vllm_time_*.json. Stages, by default all in this order: build exact half time.
# AVFLOW_GPU_SECONDS (default 840): for all stages. PYTHON names another interpreter. --dry-run shows what would be run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dry=
[[ ${1:-} == --dry-run ]] && dry=1 && shift
mkdir -p "${1:?usage: benchmarks/vllm_gpu.sh [--dry-run] OUTPUT_FOLDER [STAGE ...]}"
out=$(cd "$1" && pwd)
shift
all=(build exact half time)
stages=("${@:-${all[@]}}")
python=${PYTHON:-python3}
total=${AVFLOW_GPU_SECONDS:-840}
log=$out/vllm_log.txt
failed=0

# Where avflow is not installed, what makes it a plug-in of vLLM's: an entry point.
plugin=$(mktemp -d)
trap 'rm -rf "$plugin"' EXIT
mkdir "$plugin/avflow-0.2.0.dist-info"
printf 'Metadata-Version: 2.1\nName: avflow\nVersion: 0.2.0\n' >"$plugin/avflow-0.2.0.dist-info/METADATA"
printf '[vllm.general_plugins]\navflow = avflow_vllm:register\n' >"$plugin/avflow-0.2.0.dist-info/entry_points.txt"
export PYTHONPATH="$PWD/python:$PWD:$plugin" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
export VLLM_USE_V2_MODEL_RUNNER=1 AVFLOW_TEST_LINES="$out/vllm_half.txt"

note() { echo "$*" | tee -a "$out/vllm_summary.txt"; }

# stage NAME SECONDS COMMAND...: appends to the log, shows its end, and goes on whatever happens.
stage() {
    local name=$1 allowed=$2 began=$SECONDS code
    shift 2
    if [[ -n $dry ]]; then
        printf '%s\t%s\t%s\t%s\n' "$name" "$allowed" "${AVFLOW_TEST_ENGINE:-}" "$*"
        return
    fi
    ((allowed > total - SECONDS)) && allowed=$((total - SECONDS))
    if ((allowed < 10)); then
        note "$name: NOT RUN, no time left"
        failed=1
        return
    fi
    echo "== $name (at most $allowed s) ${AVFLOW_TEST_ENGINE:-}" | tee -a "$log"
    timeout -k 5 "$allowed" "$@" >>"$log" 2>&1
    code=$?
    tail -n "${SHOWN:-4}" "$log"
    case $code in
        0) note "$name: passed, $((SECONDS - began)) s" ;;
        124 | 137) note "$name: STOPPED after $((SECONDS - began)) s" ;;
        *) note "$name: FAILED with $code, $((SECONDS - began)) s" ;;
    esac
    ((code == 0)) || failed=1
}

graphs() { # how an engine is told which CUDA graphs to use
    case $1 in
        eager) echo '"enforce_eager": true' ;;
        piecewise) echo '"enforce_eager": false, "compilation_config": {"cudagraph_mode": "PIECEWISE"}' ;;
        full) echo '"enforce_eager": false, "compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE"}' ;;
    esac
}

# tests NAME SECONDS BACKEND DTYPE GRAPHS PROMPTS TEST...: tests of tests/serving with that kernel.
tests() {
    local name=$1 seconds=$2
    AVFLOW_TEST_ENGINE="{\"attention_backend\": \"$3\", \"dtype\": \"$4\", \"mm_encoder_attn_backend\": \"TORCH_SDPA\", \
\"gpu_memory_utilization\": 0.5, $(graphs "$5")}" AVFLOW_TEST_PROMPTS=$6 \
        stage "$name" "$seconds" "$python" -m pytest -q -p no:cacheprovider --timeout 200 "${@:7}"
}

run_build() {
    AVFLOW_CUDA=0 stage build 90 "$python" setup.py -q build_ext --inplace
}

# tiny-omni in float32, which Triton's kernel takes: tokens are equal, whatever the graphs.
run_exact() {
    local file=tests/serving/test_served_tokens.py
    tests exact-eager 150 TRITON_ATTN float32 eager 40 "$file" -k "equal and (early or two) and not single"
    tests exact-full 150 TRITON_ATTN float32 full 40 "$file" -k "equal and two and (batch or cache or few)"
    tests exact-row-by-row 100 TRITON_ATTN float32 full 2 "$file" -k "one_token and (early or two)"
    tests exact-piecewise 120 TRITON_ATTN float32 piecewise 40 "$file" -k "equal and two and (batch or chunks)"
}

# FlashAttention and FlashInfer take half precision: as near to float32 with eviction as without.
run_half() {
    local backend kind
    for backend in FLASH_ATTN FLASHINFER; do
        for kind in full eager piecewise; do
            tests "half-$backend-$kind" 90 "$backend" float16 "$kind" 2 tests/serving/test_served_half.py
        done
    done
}

run_time() {
    local backend
    for backend in FLASH_ATTN FLASHINFER; do
        SHOWN=16 stage "time-$backend" 200 "$python" benchmarks cuda/vllm --shape 3b --tokens 4096 16384 \
            --after 17 26 -1 --turns 3 --seconds 170 --json "$out/vllm_time_$backend.json" \
            --engine "{\"attention_backend\": \"$backend\"}"
    done
}

for name in "${stages[@]}"; do
    if ! declare -F "run_$name" >/dev/null; then
        echo "unknown stage $name: pass some of ${all[*]}" >&2
        exit 2
    fi
done
if [[ -z $dry ]]; then
    : >"$out/vllm_summary.txt"
    : >"$log"
    rm -f "$AVFLOW_TEST_LINES"
    note "$("$python" -c 'import torch, vllm; print(torch.cuda.get_device_name(0), "torch", torch.__version__, "vllm",
        vllm.__version__)' 2>>"$log" | tail -n 1)"
fi
for name in "${stages[@]}"; do
    "run_$name"
done
[[ -n $dry ]] || { echo "== summary, $SECONDS s" && cat "$out/vllm_summary.txt"; }
exit "$failed"
