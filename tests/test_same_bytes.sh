#!/usr/bin/env bash
# The same checkpoint for any number of ranks, replicas and threads, either layout, every path that this
# machine has; in f32 the same for avx512, avx2 and portable, and equal to the recorded manifest.
#   test_same_bytes.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER [CONFIG [SET ...]]
set -euo pipefail
program=$1 compare=$2 source=$3
config=${4:-$source/configs/demo.toml}
shift 3
[ $# -gt 0 ] && shift
settings=()
for setting in "$@"; do settings+=(--set "$setting"); done
# shellcheck source=jobs/setup
source "$source/jobs/setup"
setup_mpi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
checked=0

# run NAME RANKS [SET ...]: quantize into NAME.h5
run() {
    local name=$1 ranks=$2 arguments=()
    shift 2
    for setting in "$@"; do arguments+=(--set "$setting"); done
    mpirun -n "$ranks" "$program" -q "${settings[@]}" "${arguments[@]}" \
        --set "output.checkpoint=\"$folder/$name.h5\"" "$config" >"$folder/$name.log" 2>&1 || {
        echo "FAIL: $name ($ranks ranks, $*)"
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
    rm -rf "$folder/$name.h5" "$folder/$name.parts"
    checked=$((checked + 1))
    echo "same as $reference: $*"
}

has() { grep -qw "$1" /proc/cpuinfo; }
paths=(portable)
has fma && has avx2 && paths+=(avx2)
has avx512bw && has avx512vl && paths+=(avx512)
has avx512_bf16 && paths+=(avx512-bf16)
has amx_bf16 && paths+=(amx)
slow=${FPTQ_TEST_LONG:-0}

for path in "${paths[@]}"; do
    # The portable path is slow: two runs of it say enough.
    run "$path" 1 "run.isa=\"$path\"" run.threads=1
    same "$path" "$path-4" 4 "run.isa=\"$path\"" run.threads=2
    [ "$path" = portable ] && [ "$slow" = 0 ] && continue
    same "$path" "$path-2" 2 "run.isa=\"$path\"" run.threads=1
    same "$path" "$path-3" 3 "run.isa=\"$path\"" run.threads=3 run.stages=1 run.replicas=3
done
best=${paths[-1]}
same "$best" ranks-8 8 "run.isa=\"$best\"" run.threads=1
same "$best" ranks-64 64 "run.isa=\"$best\"" run.threads=1
same "$best" stages 4 "run.isa=\"$best\"" run.stages=4 run.replicas=1
same "$best" mixed 6 "run.isa=\"$best\"" run.stages=2 run.replicas=3
same "$best" chunks 2 "run.isa=\"$best\"" calibration.chunk_tokens=50
same "$best" sharded 2 "run.isa=\"$best\"" output.layout=sharded
same "$best" plain 2 "run.isa=\"$best\"" output.compression=none

# Ranks with unlike processors agree on the path that all have.
if [ "${#paths[@]}" -gt 2 ]; then
    mpirun -n 1 env FPTQ_ISA=avx2 "$program" "${settings[@]}" --set "output.checkpoint=\"$folder/unlike.h5\"" "$config" : \
        -n 2 "$program" "${settings[@]}" --set "output.checkpoint=\"$folder/unlike.h5\"" "$config" >"$folder/unlike.log" 2>&1
    grep -q "2 of 3 ranks could do better than path avx2" "$folder/unlike.log"
    "$compare" "$folder/avx2.h5" "$folder/unlike.h5"
    checked=$((checked + 1))
    echo "same as avx2: unlike processors"
fi

run f32 1 run.precision=f32 run.isa=portable
for path in "${paths[@]}"; do
    [ "$path" = portable ] || same f32 "f32-$path" 2 run.precision=f32 "run.isa=\"$path\""
done
recorded=$source/tests/golden/demo-f32-tensors.sha256
if [ "$config" = "$source/configs/demo.toml" ] && [ -f "$recorded" ]; then
    found=$("$program" verify "$folder/f32.h5" | sed -n 's/^tensors: //p')
    if [ "$found" != "$(cat "$recorded")" ]; then
        echo "FAIL: the demo's f32 tensors have the sum $found, recorded is $(cat "$recorded")"
        exit 1
    fi
    checked=$((checked + 1))
    echo "same as recorded: f32 tensors $found"
fi
echo "$checked checkpoints equal"
