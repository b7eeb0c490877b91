#!/usr/bin/env bash
# Everything that needs a GPU, on a bare machine: python3 with a CUDA torch >= 2.11, pytest, hypothesis, transformers,
# cmake, ninja and pybind11, an nvcc; no network, no venv. What fails or is stopped is reported, and the rest runs.
#
#     benchmarks/gpu.sh OUTPUT_FOLDER [STAGE ...]
#
# Stages, by default all in this order: build tests sanitize gather passes attention sweep evict profile patch. Without
# `build` the module must have been built there before. The folder receives summary.txt, log.txt, and gather, passes,
# attention, sweep, evict, profile and patch .json, to which the benchmarks write step by step. Other stages' files of earlier runs stay.
# AVFLOW_GPU_SECONDS (default 525): for all stages; each has a limit of its own, and gets what is left at most.
# AVFLOW_LIMIT_STAGE, such as AVFLOW_LIMIT_EVICT=200: another limit for a stage. PYTHON names another interpreter,
# AVFLOW_CUDA_ARCHS (default 90) the architecture.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${1:?usage: benchmarks/gpu.sh OUTPUT_FOLDER [STAGE ...]}"
out=$(cd "$1" && pwd)
shift
all=(build tests sanitize gather passes attention sweep evict profile patch)
stages=("${@:-${all[@]}}")
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
    SHOWN=20 stage build "$(limit build 110)" "$python" setup.py -q build_ext --inplace
}

run_tests() {
    # Not all of tests/: the other files need packages that a bare machine may lack.
    mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
    SHOWN=25 stage tests "$(limit tests 110)" "$python" -m pytest -q -m gpu -p no:cacheprovider \
        --timeout 100 "${files[@]}"
}

run_sanitize() {
    local sanitizer tool
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [[ -z $sanitizer ]]; then
        note "sanitize: NOT RUN, compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin"
        failed=1
        return
    fi
    for tool in memcheck racecheck initcheck synccheck; do
        # PyTorch's caching allocator would hide where one tensor ends and the next begins.
        stage "$tool" "$(limit sanitize 40)" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" \
            --tool "$tool" --error-exitcode 9 --print-limit 20 "$python" benchmarks op/sanitize
    done
}

run_gather() {
    SHOWN=30 stage gather "$(limit gather 25)" "$python" benchmarks op/gather --device cuda --seconds 0.3 \
        --json "$out/gather.json"
}

run_passes() {
    SHOWN=40 stage passes "$(limit passes 25)" "$python" benchmarks op/passes --device cuda --seconds 0.3 \
        --json "$out/passes.json"
}

run_attention() { SHOWN=60 benchmark attention 150 cuda/attention; }
run_sweep() { benchmark sweep 170 cuda/sweep --shape 3b 7b; }
run_evict() { benchmark evict 200 cuda/evict --shape 3b 7b --tokens 8192 16384 32768; }
run_profile() { benchmark profile 90 cuda/profile --shape 3b; }
run_patch() { benchmark patch 90 cuda/patch --shape 3b 7b; }

for name in "${stages[@]}"; do
    if ! declare -F "run_$name" >/dev/null; then
        echo "unknown stage $name: pass some of ${all[*]}" >&2
        exit 2
    fi
done
: >"$out/summary.txt"
: >"$log"
for name in "${stages[@]}"; do
    rm -f "$out/$name.json"
done
for name in "${stages[@]}"; do
    "run_$name"
    if [[ $name == build ]]; then
        stage doctor "$(limit doctor 40)" "$python" -c \
            "import avflow_ext; found = avflow_ext.capabilities(); print(found); assert found['cuda']['path'], 'no CUDA path'" || {
            note "nothing else can run"
            break
        }
    fi
done
echo "== summary, $SECONDS s"
cat "$out/summary.txt"
exit "$failed"
