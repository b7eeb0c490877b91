#!/usr/bin/env bash
# What the tables of a CPU are made of, on a machine that does nothing else: wall time counts in most of them.
#
#     benchmarks/cpu.sh [--dry-run] OUTPUT_FOLDER [NAME ...]
#
# Names, by default all in this order, with the minutes that each takes on two cores of about 100 GFLOP/s in float32:
# attention 3, attention-avx2 2, bf16 1, calls 1, memory 1, sweep 4, sweep-media 7, patch 2, check 3, evict 9. The folder
# receives NAME.json; what fails is reported, the rest runs. PYTHON names another interpreter.
# `python benchmarks pages/cpu OUTPUT_FOLDER` then writes the tables of README.md and docs/.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dry=
[[ ${1:-} == --dry-run ]] && dry=1 && shift
[[ -n $dry ]] || mkdir -p "${1:?usage: benchmarks/cpu.sh [--dry-run] OUTPUT_FOLDER [NAME ...]}"
out=$1
shift
(($#)) || set -- attention attention-avx2 bf16 calls memory sweep sweep-media patch check evict
failed=()
for name in "$@"; do
    case $name in
        attention) command=(cpu/attention) ;;
        attention-avx2) command=(cpu/attention --isa avx2 --no-flex) ;;
        bf16 | sweep) command=("cpu/$name") ;;
        calls) command=(op/calls) ;;
        evict) command=(cpu/evict --turns 1) ;;
        memory) command=(cpu/sweep --memory) ;;
        sweep-media) command=(cpu/sweep --media --shape 12x512x2048) ;;
        patch) command=(cpu/patch --turns 1) ;;
        check) command=(cpu/check --shape 12x256x1024 --turns 30) ;;
        *) echo "no benchmark named $name" >&2 && exit 2 ;;
    esac
    # As each was recorded: one thread where CPU time or a model's many small steps are what is timed.
    threads=$([[ $name =~ ^(patch|check|evict)$ ]] && echo 1 || nproc)
    line=("${PYTHON:-python3}" benchmarks "${command[@]}" --json "$out/$name.json")
    echo "== OMP_NUM_THREADS=$threads ${line[*]}"
    [[ -n $dry ]] && continue
    began=$SECONDS
    OMP_NUM_THREADS=$threads "${line[@]}" || failed+=("$name")
    echo "== $name: $((SECONDS - began)) s"
done
((${#failed[@]} == 0)) || { echo "failed: ${failed[*]}" >&2 && exit 1; }
