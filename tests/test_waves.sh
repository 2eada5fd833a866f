#!/usr/bin/env bash
# Layers that do not all fit into memory: the checkpoint is that of the run with everything resident, the
# memory stays within its limit, nothing is left behind.
#   test_waves.sh FPTQ_PIPELINE COMPARE_TOOL MAKE_MODEL SOURCE_FOLDER MEASURE
# MEASURE: yes, or no where the build takes memory of its own (sanitizers).
set -euo pipefail
program=$1 compare=$2 make_model=$3 source=$4 measure=$5
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
"$make_model" "$folder/model" layers=7 hidden=1024 intermediate=2816 heads=16 kv_heads=8 head_dim=64 \
  vocabulary=4000 tied=1
cat >"$folder/config.toml" <<END
[model]
path = "model"
[calibration]
data = "random-tokens"
samples = 6
sequence_length = 72
chunk_tokens = 32
[run]
threads = 1
END

# run NAME RANKS [SET ...]
run() {
  local name=$1 ranks=$2 arguments=()
  shift 2
  for setting in "$@"; do arguments+=(--set "$setting"); done
  mpirun -n "$ranks" "$program" --json "$folder/report.json" "${arguments[@]}" \
    --set "output.checkpoint=\"$folder/$name.h5\"" "$folder/config.toml" >"$folder/log" 2>&1 || {
    echo "FAIL: $name ($ranks ranks, $*)"
    cat "$folder/log"
    exit 1
  }
}

# same RANKS WORDS SET ...: in waves, as its log says
same() {
  local ranks=$1 words=$2
  shift 2
  run other "$ranks" "$@"
  grep "layers do not all fit into memory: .*$words" "$folder/log" || {
    echo "FAIL: no waves with $*"
    exit 1
  }
  "$compare" "$folder/resident.h5" "$folder/other.h5"
  rm "$folder/other.h5" "$folder/report.json"
  local left
  left=$(ls -A "$folder")
  [ "$left" = "config.toml
log
model
resident.h5" ] || { echo "FAIL: left behind: $left"; exit 1; }
}

run resident 1
if grep "do not all fit" "$folder/log"; then exit 1; fi
# A layer has 22.5 MiB, the model 158 and the program 30 MiB beside it.
for ranks in 1 2 3; do
  limit=$((ranks * 75))
  run other "$ranks" "run.memory_limit=${limit}MiB" run.stages=1
  grep "layers do not all fit" "$folder/log"
  "$compare" "$folder/resident.h5" "$folder/other.h5"
  peak=$(awk '/"peak_bytes"/ { gsub(/[^0-9]/, "", $2); sum += $2 } END { printf "%d", sum / 1048576 }' "$folder/report.json")
  echo "$ranks rank(s): $peak MiB of $limit"
  [ "$measure" = no ] || { [ "$peak" -gt 0 ] && [ "$peak" -le "$limit" ]; }
done
rm "$folder/other.h5" "$folder/report.json"
same 1 "1 at once, waves of 4 .*a scratch file" run.layers_held=1 run.wave=4 run.spill=always
same 2 "2 at once, waves of 1 .*memory" run.layers_held=2 run.wave=1 run.stages=1
same 2 "2 at once, waves of 3 .*memory" run.layers_held=2 run.wave=3 run.stages=2 run.spill=never
# Stages of 3, 2 and 2 layers: two passes through the first, one through the others.
same 3 "2 at once, waves of 2 .*a scratch file" run.layers_held=2 run.wave=2 run.stages=3 run.spill=always
same 5 "1 at once, waves of 2 .*a scratch file" run.layers_held=1 run.wave=2 run.stages=2 run.spill=always
# Too little for one layer.
if "$program" plan --set run.memory_limit=40MiB --set "output.checkpoint=\"x.h5\"" "$folder/config.toml" >"$folder/log" 2>&1; then exit 1; fi
grep "need at least .* with one layer in memory at a time" "$folder/log"
# Weights that are decoded lie in a host's memory once, whatever its replicas: 158 MiB, and twice 40.
rm -r "$folder/model"
"$make_model" "$folder/model" layers=7 hidden=1024 intermediate=2816 heads=16 kv_heads=8 head_dim=64 \
  vocabulary=4000 tied=1 type=f32
decoded=(run.precision=bf16 run.stages=1)
run resident 1 "${decoded[@]}"
run other 3 "${decoded[@]}" run.memory_limit=320MiB
if grep -e "do not all fit" -e "cannot share" "$folder/log"; then exit 1; fi
"$compare" "$folder/resident.h5" "$folder/other.h5"
rm "$folder/other.h5"
# What else is taken as activations pass: Hessians, samples, both of the rotated model.
methods=("model.path=\"$source/tests/demo/model\"" quantization.rounding=gptq quantization.policy=error
  quantization.rotation=hadamard)
run resident 1 "${methods[@]}"
rm -r "$folder/model"
mkdir "$folder/model"
same 2 "2 at once, waves of 2 .*a scratch file" "${methods[@]}" run.layers_held=2 run.wave=2 run.spill=always run.stages=1
