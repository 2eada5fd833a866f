#!/usr/bin/env bash
# What is decided by measuring on a sample of the activations: the same checkpoint for any number of ranks,
# stages, replicas, threads and chunks, and in f32 on every path.
#   test_measured.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER
set -euo pipefail
program=$1 compare=$2 source=$3
# shellcheck source=jobs/setup
source "$source/jobs/setup"
setup_mpi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
checked=0

# run NAME RANKS [SET ...]: quantize the demo into NAME.h5
run() {
    local name=$1 ranks=$2 arguments=()
    shift 2
    for setting in "${options[@]}" "$@"; do arguments+=(--set "$setting"); done
    mpirun -n "$ranks" "$program" -q "${arguments[@]}" --set "output.checkpoint=\"$folder/$name.h5\"" \
        --json "$folder/$name.json" "$source/configs/demo.toml" >"$folder/$name.log" 2>&1 || {
        echo "FAIL: $name ($ranks ranks, ${options[*]} $*)"
        cat "$folder/$name.log"
        exit 1
    }
}

# same REFERENCE NAME RANKS [SET ...]
same() {
    local reference=$1 name=$2
    shift
    run "$@"
    "$compare" "$folder/$reference.h5" "$folder/$name.h5" || {
        echo "FAIL: $name differs from $reference"
        exit 1
    }
    rm -rf "$folder/$name.h5"
    checked=$((checked + 1))
}

# all_alike OPTION ...
all_alike() {
    options=("$@")
    rm -rf "$folder"/*.h5
    run one 1 run.threads=1
    same one replicas 3 run.stages=1 run.replicas=3 calibration.chunk_tokens=50 run.threads=2
    same one mixed 6 run.stages=2 run.replicas=3
    echo "the same for any ranks: $*"
}

all_alike quantization.static_scale=least-squares calibration.sample_tokens=300
all_alike quantization.policy=error quantization.static_scale=least-squares
all_alike quantization.clip=output calibration.sample_tokens=64
# More tokens than there are: all of them.
all_alike quantization.static_scale=least-squares calibration.sample_tokens=60000 calibration.samples=4
echo "$checked checkpoints equal"
