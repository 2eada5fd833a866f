#!/usr/bin/env bash
# calibration.ranges: the checkpoint is that of a calibration, and one that will not do is refused.
#   test_ranges.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER
set -euo pipefail
program=$1 compare=$2 source=$3
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"

# demo RANKS NAME SET ...: the demo into NAME.h5
demo() {
  local ranks=$1 name=$2 arguments=() start=()
  shift 2
  for setting in "$@"; do arguments+=(--set "$setting"); done
  ((ranks == 1)) || start=(mpirun -n "$ranks")
  "${start[@]}" "$program" -q --set calibration.samples=8 "${arguments[@]}" \
    --set "output.checkpoint=\"$folder/$name.h5\"" "$source/configs/demo.toml" >"$folder/log" 2>&1
}

# alike RANKS SET ...: with settings, from the ranges of base.h5 as from the text. What the configuration
# says of the text then does not matter.
alike() {
  local ranks=$1
  shift
  demo 2 whole "$@" || fail "$*: $(<"$folder/log")"
  demo "$ranks" ranges "$@" "calibration.ranges=\"$folder/base.h5\"" calibration.data=none.txt \
    calibration.samples=3 calibration.sequence_length=100000 run.precision=f32 || fail "from ranges: $*: $(<"$folder/log")"
  "$compare" "$folder/whole.h5" "$folder/ranges.h5" || fail "from ranges it is another: $*"
  echo "the same: $*"
}

demo 1 base || fail "$(<"$folder/log")"
alike 1 quantization.v0=2 quantization.v1=5
alike 9 quantization.method=smoothquant output.compression=zstd
# Ranges of a checkpoint that has them from a checkpoint, with folds of its own.
cp "$folder/ranges.h5" "$folder/base.h5"
alike 3 quantization.equalization=log1p quantization.v0=0.5 quantization.v1=50 quantization.clip=mse run.layers_held=1

# refused PATTERN SET ...: by $ranks ranks
refused() {
  local pattern=$1 status=0
  shift
  demo "$ranks" refused "$@" || status=$?
  [[ $status == 1 && $(grep -c 'error: ' "$folder/log") == 1 ]] &&
    grep 'error: ' "$folder/log" | grep -Eq -- "$pattern" ||
    fail "status $status (expected 1) or not one error with: $pattern: $(<"$folder/log")"
  echo "ok: $(grep 'error: ' "$folder/log")"
}
base="calibration.ranges=\"$folder/base.h5\""
ranks=2
refused 'none.h5: No such file' "calibration.ranges=\"$folder/none.h5\""
refused 'a checkpoint of another model: attribute model_type is "llama"' "$base" "model.path=$source/tests/golden/qwen2/model"
refused 'a checkpoint of another model: /model/.* it must be' "$base" "model.path=$source/tests/golden/llama_mha/model"
ranks=1
cp "$folder/base.h5" "$folder/refused.h5"
refused 'is the checkpoint that is to be written' "calibration.ranges=\"$folder/refused.h5\""
rm "$folder/refused.h5"
python=/usr/bin/python3
if ! $python -c 'import h5py' 2>/dev/null; then
  echo "h5py is not installed: its part is skipped"
  exit 0
fi
# Changed with the manifest, as another program might: a NaN, another norm, ranges that differ; or gone.
$python - "$folder" <<'PYTHON'
import hashlib
import shutil
import sys

import h5py
import numpy

folder = sys.argv[1]
path = "/model/layers/3/self_attn/k_proj/input_absmax"


def forge(name, path, change):
    shutil.copy(f"{folder}/base.h5", f"{folder}/{name}.h5")
    with h5py.File(f"{folder}/{name}.h5", "a") as file:
        lines = [line for line in file["manifest"][()] if not line.endswith(b"  " + path.encode())]
        if change is None:
            del file[path]
        else:
            values = file[path][()]
            values[5] = change
            file[path][...] = values
            stored = file[path][()]
            if file[path].id.get_type().get_size() == 2:  # bf16, which h5py widens
                stored = (stored.view("<u4") >> 16).astype("<u2")
            lines.append(f"{hashlib.sha256(stored.tobytes()).hexdigest()}  {path}".encode())
            lines.sort(key=lambda line: line[66:])
        kind = file["manifest"].dtype
        del file["manifest"]
        file.create_dataset("manifest", data=lines, dtype=kind)


forge("nan", path, numpy.nan)
forge("negative", path, -1)
forge("differs", path, 1000)
forge("missing", path, None)
forge("norm", "/model/norm/weight", 7)
PYTHON
path=/model/layers/3/self_attn/k_proj/input_absmax
refused "nan.h5: $path: channel 5 is -?nan, which is no range" "calibration.ranges=\"$folder/nan.h5\""
refused "negative.h5: $path: channel 5 is -1, which is no range" "calibration.ranges=\"$folder/negative.h5\""
refused 'differs.h5: layer 3: self_attn.q_proj and self_attn.k_proj .* differ in input_absmax' \
  "calibration.ranges=\"$folder/differs.h5\""
refused "missing.h5: no dataset $path" "calibration.ranges=\"$folder/missing.h5\""
refused 'norm.h5: a checkpoint of another model: model.norm is not that of ' "calibration.ranges=\"$folder/norm.h5\""
head -c 300000 "$folder/base.h5" >"$folder/short.h5"
refused 'short.h5: ' "calibration.ranges=\"$folder/short.h5\""
