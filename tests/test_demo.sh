#!/usr/bin/env bash
# The demo, end to end: the checkpoint verifies, its integers say what the weights are (with zero points
# and symmetric, f16 and f32 scales), the sharded layout reads alike, and damage is found.
#   test_demo.sh FPTQ_PIPELINE CHECK_VALUES SOURCE_FOLDER
set -euo pipefail
program=$1 check_values=$2 source=$3
# shellcheck source=jobs/setup
source "$source/jobs/setup"
setup_mpi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
demo=$source/tests/demo

# quantize NAME [SET ...]
quantize() {
    local name=$1 arguments=()
    shift
    for setting in "$@"; do arguments+=(--set "$setting"); done
    mpirun -n 2 "$program" -q --json "$folder/$name.json" "${arguments[@]}" \
        --set "output.checkpoint=\"$folder/$name.h5\"" "$source/configs/demo.toml" >"$folder/$name.log" 2>&1 || {
        cat "$folder/$name.log"
        exit 1
    }
    "$program" verify "$folder/$name.h5" >"$folder/$name.verify"
    "$check_values" "$demo/model" "$folder/$name.h5"
}

quantize default
quantize symmetric quantization.symmetric=true
quantize seven quantization.symmetric=true 'quantization.range="amax/7"' quantization.group_size=128
quantize row quantization.group_size=0 'quantization.scale_type="f32"'
quantize log1p 'quantization.equalization="log1p"' quantization.c=2.0 quantization.group_size=24
quantize rtn 'quantization.method="rtn"'
quantize sharded 'output.layout="sharded"'
grep '^manifest:' "$folder/default.verify" >"$folder/manifest"
grep '^manifest:' "$folder/sharded.verify" | diff "$folder/manifest" -
[ -d "$folder/sharded.parts" ] && [ ! -d "$folder/default.parts" ]

# What is wrong with a damaged checkpoint is said: the dataset is named, exit status 1.
size=$(stat -c %s "$folder/default.h5")
cp "$folder/default.h5" "$folder/flipped.h5"
printf 'flipped!' | dd of="$folder/flipped.h5" bs=1 seek=$((size / 2)) conv=notrunc status=none
for damaged in flipped cut; do
    [ $damaged = cut ] && head -c $((size / 2)) "$folder/default.h5" >"$folder/cut.h5"
    status=0
    timeout 60 "$program" verify "$folder/$damaged.h5" >"$folder/out" 2>&1 || status=$?
    [ "$status" = 1 ] || { echo "FAIL: verify of a $damaged checkpoint: status $status"; cat "$folder/out"; exit 1; }
    echo "verify of a $damaged checkpoint: $(tail -1 "$folder/out")"
done

# Memory: within 15% of the plan's estimate (and 16 MB, for libraries differ), and the same for sixteen times the samples.
peak() {
    mpirun -n 2 "$program" -q --json "$folder/peak.json" --set "calibration.samples=$1" \
        --set "output.checkpoint=\"$folder/peak.h5\"" "$source/configs/demo.toml" >/dev/null
    grep -o '"peak_bytes": [0-9]*' "$folder/peak.json" | awk '{print $2}' | sort -n | tail -1
}
few=$(peak 4)
many=$(peak 64)
plan=$(mpirun -n 2 "$program" plan "$source/configs/demo.toml" | awk '$1 == "memory" {print $2 * 1048576}')
echo "peak memory of a rank: $few bytes with 4 samples, $many with 64; planned $plan"
awk -v few="$few" -v many="$many" -v plan="$plan" \
    'BEGIN {exit !(many < few * 1.05 && few < plan * 1.15 + 16e6)}'
