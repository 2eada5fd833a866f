#!/usr/bin/env bash
# The same checkpoint for any number of ranks, replicas and threads, either layout, every path that this
# machine has; in f32 the same for avx512, avx2 and portable, and equal to the recorded manifest.
#   test_same_bytes.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER [CONFIG [SET ...]]
set -euo pipefail
program=$1 compare=$2 source=$3
config=${4:-$source/configs/demo.toml}
shift 3
[ $# -gt 0 ] && shift
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
settings=("$@")

has() { grep -qw "$1" /proc/cpuinfo; }
paths=(portable)
has fma && has avx2 && paths+=(avx2)
has avx512bw && has avx512vl && paths+=(avx512)
has avx512_bf16 && paths+=(avx512-bf16)
has amx_bf16 && paths+=(amx)
slow=${FPTQ_TEST_LONG:-0}

for path in "${paths[@]}"; do
    # The portable path is slow: two runs of it say enough.
    quantize "$path" 1 "$config" "run.isa=\"$path\"" run.threads=1
    same "$path" 4 "$config" "run.isa=\"$path\"" run.threads=2
    [ "$path" = portable ] && [ "$slow" = 0 ] && continue
    same "$path" 2 "$config" "run.isa=\"$path\"" run.threads=1
    same "$path" 3 "$config" "run.isa=\"$path\"" run.threads=3 run.stages=1 run.replicas=3
done
best=${paths[-1]}
same "$best" 8 "$config" "run.isa=\"$best\"" run.threads=1
same "$best" 64 "$config" "run.isa=\"$best\"" run.threads=1
same "$best" 4 "$config" "run.isa=\"$best\"" run.stages=4 run.replicas=1
same "$best" 6 "$config" "run.isa=\"$best\"" run.stages=2 run.replicas=3
same "$best" 2 "$config" "run.isa=\"$best\"" calibration.chunk_tokens=50
same "$best" 2 "$config" "run.isa=\"$best\"" output.layout=sharded
same "$best" 2 "$config" "run.isa=\"$best\"" output.compression=none

# Ranks with unlike processors agree on the path that all have.
if [ "${#paths[@]}" -gt 2 ]; then
    arguments=(--set "output.checkpoint=\"$folder/unlike.h5\"" "$config")
    for setting in "${settings[@]}"; do arguments=(--set "$setting" "${arguments[@]}"); done
    mpirun -n 1 env FPTQ_ISA=avx2 "$program" "${arguments[@]}" : -n 2 "$program" "${arguments[@]}" >"$folder/log" 2>&1
    grep -q "2 of 3 ranks could do better than path avx2" "$folder/log"
    "$compare" "$folder/avx2.h5" "$folder/unlike.h5"
    checked=$((checked + 1))
    echo "same as avx2: unlike processors"
fi

quantize f32 1 "$config" run.precision=f32 run.isa=portable
for path in "${paths[@]}"; do
    [ "$path" = portable ] || same f32 2 "$config" run.precision=f32 "run.isa=\"$path\""
done
recorded=$source/tests/golden/demo-f32-tensors.sha256
if [ "$config" = "$source/configs/demo.toml" ] && [ -f "$recorded" ]; then
    found=$("$program" verify "$folder/f32.h5" | sed -n 's/^tensors: //p')
    [ "$found" = "$(cat "$recorded")" ] ||
        fail "the demo's f32 tensors have the sum $found, recorded is $(cat "$recorded")"
    checked=$((checked + 1))
    echo "same as recorded: f32 tensors $found"
fi
echo "$checked checkpoints equal"
