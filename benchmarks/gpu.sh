#!/usr/bin/env bash
# Everything that needs a GPU, on a bare machine: python3 with a CUDA torch >= 2.11, pytest, hypothesis, transformers >=
# 5.17, cmake, ninja and pybind11, an nvcc; no network, no venv. What fails or is stopped is reported, the rest runs.
#
#     benchmarks/gpu.sh [--dry-run] OUTPUT_FOLDER [STAGE ...]
#
# Where a GPU is at hand for a quarter of an hour, and a command on it ends after ten minutes, two calls do. The second uses
# what the first one built (on another machine: `build second`), and comes as soon as the first has ended:
#
#     AVFLOW_GPU_SECONDS=390 benchmarks/gpu.sh OUTPUT_FOLDER first     the kernels, then sweeps
#     AVFLOW_GPU_SECONDS=385 benchmarks/gpu.sh OUTPUT_FOLDER second    towers, eviction, decoding, profile, sanitizers
#
# Stages, by default all in this order: build forms attention gather passes sweep, which are `first`; towers evict
# decode profile sanitize tests patch, which are `second`. Without `build` the module must have been built before. The
# folder receives summary.txt and log.txt, to which every call appends, and a .json of every stage that measures, which
# grows step by step.
# `python benchmarks pages/gpu OUTPUT_FOLDER` makes the tables of README.md and docs/ of them.
# AVFLOW_GPU_SECONDS (default 525): for all stages; each has a limit of its own, and gets what is left at most.
# AVFLOW_LIMIT_STAGE, such as AVFLOW_LIMIT_EVICT=200: another limit for a stage. PYTHON names another interpreter,
# AVFLOW_CUDA_ARCHS (default 90) the architecture. --dry-run shows stages, limits and commands, and runs nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dry=
[[ ${1:-} == --dry-run ]] && dry=1 && shift
mkdir -p "${1:?usage: benchmarks/gpu.sh [--dry-run] OUTPUT_FOLDER [STAGE ...]}"
out=$(cd "$1" && pwd)
shift
first=(build forms attention gather passes sweep)
second=(towers evict decode profile sanitize tests patch)
all=("${first[@]}" "${second[@]}")
stages=()
(($#)) || set -- first second
for name in "$@"; do
    case $name in
        first) stages+=("${first[@]}") ;;
        second) stages+=("${second[@]}") ;;
        *) stages+=("$name") ;;
    esac
done
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/python:$PWD:$PWD/avflow-models" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export AVFLOW_CUDA=1 AVFLOW_CUDA_ARCHS="${AVFLOW_CUDA_ARCHS:-90}" AVFLOW_CMAKE_ARGS="-DCMAKE_CUDA_FLAGS=-lineinfo"
total=${AVFLOW_GPU_SECONDS:-525}
failed=0
log=$out/log.txt

note() { echo "$*" | tee -a "$out/summary.txt"; }

# limit STAGE SECONDS: what the stage may take, at most what is left of all.
limit() {
    local name="AVFLOW_LIMIT_${1^^}" left=$((total - SECONDS)) own
    own=${!name:-$2}
    echo $((own < left ? own : left))
}

# stage NAME SECONDS COMMAND...: appends to the log, shows its end, and goes on whatever happens.
stage() {
    local name=$1 allowed=$2 began=$SECONDS code
    shift 2
    if [[ -n $dry ]]; then
        printf '%s\t%s\t%s\n' "$name" "$allowed" "$*"
        return
    fi
    if ((allowed < 5)); then
        note "$name: NOT RUN, no time left"
        failed=1
        return 1
    fi
    echo "== $name (at most $allowed s)" | tee -a "$log"
    timeout -k 5 "$allowed" "$@" >>"$log" 2>&1
    code=$?
    tail -n "${SHOWN:-6}" "$log"
    case $code in
        0) note "$name: passed, $((SECONDS - began)) s" ;;
        124 | 137) note "$name: STOPPED after $((SECONDS - began)) s" ;;
        *) note "$name: FAILED with $code, $((SECONDS - began)) s" ;;
    esac
    ((code == 0)) || failed=1
    return "$code"
}

# benchmark NAME SECONDS BENCHMARK ARGUMENT...: one that keeps to --seconds, less what it takes to start and to end.
benchmark() {
    local name=$1 allowed
    allowed=$(limit "$1" "$2")
    shift 2
    SHOWN=${SHOWN:-40} stage "$name" "$allowed" "$python" benchmarks "$1" --json "$out/$name.json" "${@:2}" \
        --seconds $((allowed > 30 ? allowed - 20 : allowed / 2))
}

run_build() {
    SHOWN=20 stage build "$(limit build 100)" "$python" setup.py -q build_ext --inplace
}

run_forms() { SHOWN=60 benchmark forms 60 cuda/forms; }

run_tests() {
    # Not all of tests/: the other files need packages that a bare machine may lack. So may the settings in pyproject.toml.
    local each=(--timeout 60)
    "$python" -c 'import pytest_timeout' 2>/dev/null || each=(-o "addopts=-ra --strict-markers")
    mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
    SHOWN=25 stage tests "$(limit tests 60)" "$python" -m pytest -q -m gpu -p no:cacheprovider "${each[@]}" "${files[@]}"
}

run_sanitize() {
    local sanitizer tool
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [[ -z $sanitizer && -n $dry ]]; then
        sanitizer=compute-sanitizer
    elif [[ -z $sanitizer ]]; then
        note "sanitize: NOT RUN, compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin"
        failed=1
        return
    fi
    for tool in racecheck synccheck initcheck memcheck; do
        # PyTorch's caching allocator would hide where one tensor ends and the next begins.
        stage "$tool" "$(limit sanitize 25)" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" \
            --tool "$tool" --error-exitcode 9 --print-limit 20 "$python" benchmarks op/sanitize
    done
}

run_gather() {
    SHOWN=30 stage gather "$(limit gather 20)" "$python" benchmarks op/gather --device cuda --seconds 0.3 \
        --json "$out/gather.json"
}

run_towers() {
    SHOWN=30 stage towers "$(limit towers 25)" "$python" benchmarks op/towers --device cuda --seconds 2 \
        --json "$out/towers.json"
}

run_passes() {
    SHOWN=40 stage passes "$(limit passes 20)" "$python" benchmarks op/passes --device cuda --seconds 0.3 \
        --json "$out/passes.json"
}

run_attention() { SHOWN=60 benchmark attention 60 cuda/attention; }
run_sweep() { benchmark sweep 110 cuda/sweep --shape 3b 7b --tokens 10240 16384; }
run_evict() { benchmark evict 95 cuda/evict --shape 3b 7b --tokens 8192 32768 --batch; }
run_decode() { benchmark decode 80 cuda/evict --shape 3b --tokens 8192 --batch 8 1 32; }
run_profile() { benchmark profile 45 cuda/profile --shape 3b; }
run_patch() { benchmark patch 40 cuda/patch --shape 3b 7b; }

for name in "${stages[@]}"; do
    if ! declare -F "run_$name" >/dev/null; then
        echo "unknown stage $name: pass some of ${all[*]}" >&2
        exit 2
    fi
done
if [[ -z $dry ]]; then
    note "$(date -u '+%Y-%m-%d %H:%M') UTC, ${stages[*]}"
    for name in "${stages[@]}"; do
        rm -f "$out/$name.json"
    done
fi
for name in "${stages[@]}"; do
    "run_$name"
    if [[ $name == build ]]; then
        stage doctor "$(limit doctor 20)" "$python" -c \
            "import avflow_ext; found = avflow_ext.capabilities(); print(found); assert found['cuda']['path'], 'no CUDA path'" || {
            note "nothing else can run"
            break
        }
    fi
done
[[ -n $dry ]] || { echo "== summary, $SECONDS s" && cat "$out/summary.txt"; }
exit "$failed"
