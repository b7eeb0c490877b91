#!/usr/bin/env bash
# Everything that needs a GPU, on a bare machine: python3 with a CUDA torch >= 2.11, pytest, hypothesis, transformers,
# cmake, ninja and pybind11, an nvcc; no network, no venv. Ends within 9 minutes; what fails is reported, the rest runs.
#
#     benchmarks/gpu.sh OUTPUT_FOLDER
#
# The folder receives summary.txt, a log per stage, and gather, attention, sweep-3b and sweep-7b .json. PYTHON names another interpreter;
# AVFLOW_CUDA_ARCHS (default 90) the architecture.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${1:?usage: benchmarks/gpu.sh OUTPUT_FOLDER}"
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/python:$PWD" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export AVFLOW_CUDA=1 AVFLOW_CUDA_ARCHS="${AVFLOW_CUDA_ARCHS:-90}" AVFLOW_CMAKE_ARGS="-DCMAKE_CUDA_FLAGS=-lineinfo"
total=525 # seconds for all stages; a stage gets what is left of it at most
failed=0
: >"$out/summary.txt"

# stage NAME SECONDS LOG COMMAND...: appends to the log, shows its end, and goes on whatever happens.
stage() {
    local name=$1 limit=$2 log=$out/$3 began=$SECONDS code
    shift 3
    ((limit = limit < total - SECONDS ? limit : total - SECONDS))
    if ((limit < 5)); then
        echo "$name: NOT RUN, no time left" | tee -a "$out/summary.txt"
        failed=1
        return 1
    fi
    echo "== $name (at most $limit s)" | tee -a "$log"
    timeout -k 5 "$limit" "$@" >>"$log" 2>&1
    code=$?
    tail -n "${SHOWN:-6}" "$log"
    case $code in
        0) echo "$name: passed, $((SECONDS - began)) s" ;;
        124 | 137) echo "$name: STOPPED after $((SECONDS - began)) s" ;;
        *) echo "$name: FAILED with $code, $((SECONDS - began)) s" ;;
    esac | tee -a "$out/summary.txt"
    ((code == 0)) || failed=1
    return "$code"
}

rm -f "$out"/{build,tests,sanitizer,gather,attention,sweep}.log "$out"/{gather,attention,sweep-3b,sweep-7b}.json
SHOWN=20 stage build 110 build.log "$python" setup.py -q build_ext --inplace || {
    echo "nothing else can run" | tee -a "$out/summary.txt"
    exit 1
}
stage doctor 25 build.log "$python" -c \
    "import avflow_ext; found = avflow_ext.capabilities(); print(found); assert found['cuda']['path'], 'no CUDA path'"
# Not all of tests/: the other files need packages that a bare machine may lack.
mapfile -t files < <(grep -l 'mark\.gpu' tests/test_*.py)
SHOWN=25 stage "gpu tests" 110 tests.log "$python" -m pytest -q -m gpu -p no:cacheprovider --timeout 100 "${files[@]}"

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [[ -z $sanitizer ]]; then
    echo "sanitizer: NOT RUN, compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin" | tee -a "$out/summary.txt"
    failed=1
else
    for tool in memcheck racecheck initcheck synccheck; do
        # PyTorch's caching allocator would hide where one tensor ends and the next begins.
        stage "$tool" 40 sanitizer.log env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" \
            --error-exitcode 9 --print-limit 20 "$python" benchmarks/sanitize.py
    done
fi

SHOWN=30 stage "gather benchmark" 25 gather.log "$python" benchmarks/gather.py --device cuda --seconds 0.3 \
    --json "$out/gather.json"
# What is stopped keeps the figures it has: they are written one by one.
SHOWN=30 stage "sweep benchmark, 3B" 60 sweep.log "$python" benchmarks/sweep.py --device cuda --shape 3b \
    --json "$out/sweep-3b.json"
SHOWN=60 stage "attention benchmark" 150 attention.log "$python" benchmarks/attention.py --device cuda \
    --json "$out/attention.json"
SHOWN=30 stage "sweep benchmark, 7B" 120 sweep.log "$python" benchmarks/sweep.py --device cuda --shape 7b \
    --json "$out/sweep-7b.json"
echo "== summary, $SECONDS s"
cat "$out/summary.txt"
exit "$failed"
