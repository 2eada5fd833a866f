#!/usr/bin/env bash
# What is decided by measuring on a sample of the activations: the same checkpoint for any number of ranks,
# stages, replicas, threads and chunks. (In f32 on every path: test_methods.sh.)
#   test_measured.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER
set -euo pipefail
program=$1 compare=$2 source=$3
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
demo=$source/configs/demo.toml

# all_alike OPTION ...
all_alike() {
    settings=("$@")
    rm -rf "$folder"/*.h5
    quantize one 1 "$demo" run.threads=1
    same one 3 "$demo" run.stages=1 run.replicas=3 calibration.chunk_tokens=50 run.threads=2
    same one 6 "$demo" run.stages=2 run.replicas=3
    echo "the same for any ranks: $*"
}

all_alike quantization.static_scale=least-squares calibration.sample_tokens=300
all_alike quantization.policy=error quantization.static_scale=least-squares
all_alike quantization.clip=output calibration.sample_tokens=64 quantization.rotation=hadamard
# More tokens than there are: all of them.
all_alike quantization.static_scale=least-squares calibration.sample_tokens=60000 calibration.samples=4
echo "$checked checkpoints equal"
