#!/usr/bin/env bash
# Logits and activation ranges of a trained model against transformers' own, in tests/golden/NAME.
#   test_logits.sh TOOL_LOGITS SOURCE_FOLDER NAME MODEL DEFAULT_LIMIT
# MODEL is relative to SOURCE_FOLDER, or to FPTQ_TEST_DATA. The limits hold for the relative L2 errors
# of all logits and of each site's maxima: in f32, 5e-6, on every path; DEFAULT_LIMIT by default, in
# the precision of the model's weights.
set -euo pipefail
tool=$1 source=$2 name=$3 model=$4 limit=$5
reference=$source/tests/golden/$name

if [[ -e $source/$model ]]; then
  model=$source/$model
elif [[ -e ${FPTQ_TEST_DATA:-}/$model ]]; then
  model=$FPTQ_TEST_DATA/$model
else
  echo "skipped: FPTQ_TEST_DATA has no $model"
  exit 77
fi
if ! python3 -c 'import numpy' 2>/dev/null; then
  echo "skipped: python3 has no numpy"
  exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

compare() {
  python3 "$source/tests/compare_logits.py" --limit "$@"
}

"$tool" "$model" "$reference/ids.i32" "$folder/default" chunk=48
compare "$limit" "$reference" "default=$folder/default"

has() {
  grep -qw "$1" /proc/cpuinfo
}
paths=(portable)
has fma && has avx2 && paths+=(avx2)
has avx512bw && has avx512vl && paths+=(avx512)
runs=()
for path in "${paths[@]}"; do
  "$tool" "$model" "$reference/ids.i32" "$folder/$path" precision=f32 "isa=$path"
  runs+=("f32 $path=$folder/$path")
done
# All scales folded into the weights: other ranges, the same logits.
"$tool" "$model" "$reference/ids.i32" "$folder/folded" precision=f32 fold=1,150
rm "$folder/folded.maxima"
compare 5e-6 "$reference" "${runs[@]}" "f32 folded=$folder/folded"
