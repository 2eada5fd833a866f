#!/usr/bin/env bash
# The demo, end to end: the checkpoint verifies, its integers say what the weights are (with zero points
# and symmetric, f16 and f32 scales), the sharded layout reads alike, and damage is found.
#   test_demo.sh FPTQ_PIPELINE CHECK_VALUES SOURCE_FOLDER
set -euo pipefail
program=$1 check_values=$2 source=$3
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
demo=$source/tests/demo

# check NAME [SET ...]: NAME.h5 verifies and says what the model's weights are.
check() {
    quantize "$1" 2 "$source/configs/demo.toml" "${@:2}"
    "$program" verify "$folder/$1.h5" >"$folder/$1.verify"
    "$check_values" "$demo/model" "$folder/$1.h5"
}

check default
check symmetric quantization.symmetric=true
check seven quantization.symmetric=true 'quantization.range="amax/7"' quantization.group_size=128
check row quantization.group_size=0 'quantization.scale_type="f32"'
check log1p 'quantization.equalization="log1p"' quantization.c=2.0 quantization.group_size=24
check rtn 'quantization.method="rtn"'
check sharded 'output.layout="sharded"'
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
    [ "$status" = 1 ] || { cat "$folder/out"; fail "verify of a $damaged checkpoint: status $status"; }
    echo "verify of a $damaged checkpoint: $(tail -1 "$folder/out")"
done

# Memory: within 15% of the plan's estimate (and 16 MB, for libraries differ), and the same for sixteen times the samples.
peak() {
    quantize peak 2 "$source/configs/demo.toml" "calibration.samples=$1"
    grep -o '"peak_bytes": [0-9]*' "$folder/peak.json" | awk '{print $2}' | sort -n | tail -1
}
few=$(peak 4)
many=$(peak 64)
plan=$(mpirun -n 2 "$program" plan "$source/configs/demo.toml" | awk '$1 == "memory" {print $2 * 1048576}')
echo "peak memory of a rank: $few bytes with 4 samples, $many with 64; planned $plan"
awk -v few="$few" -v many="$many" -v plan="$plan" \
    'BEGIN {exit !(many < few * 1.05 && few < plan * 1.15 + 16e6)}'
