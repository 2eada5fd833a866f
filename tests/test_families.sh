#!/usr/bin/env bash
# Small random models of every family, quantized: the checkpoint verifies, says what the model's tensors
# are, with every site equalized and all policies mixed; two of them are the same for 1, 2 and 4 ranks, and a
# GGUF file gives the datasets of the folder that it was made from.
#   test_families.sh FPTQ_PIPELINE CHECK_VALUES COMPARE_TOOL SOURCE_FOLDER
set -euo pipefail
program=$1 check_values=$2 compare=$3 source=$4
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"

cat >"$folder/config.toml" <<END
[calibration]
data = "random-tokens"
samples = 4
sequence_length = 40
chunk_tokens = 16
[quantization]
group_size = 16
END

# of NAME RANKS MODEL [SET ...]: quantize it into NAME.h5
of() {
  quantize "$1" "$2" "$folder/config.toml" "model.path=\"$3\"" "${@:4}"
}

for name in bloom12 bloom8 llama3 llama_gqa llama_mha mistral qwen2 starcoder2; do
  model=$source/tests/golden/$name/model
  # No activation of these models reaches 1000: all equalized, then some of each policy.
  of "$name" 2 "$model" quantization.v0=0.01 quantization.v1=1000
  ! grep -E '"policy": "(static|dynamic)"' "$folder/$name.json" || fail "$name: a site is not equalized"
  "$program" verify "$folder/$name.h5" >"$folder/log"
  "$check_values" "$model" "$folder/$name.h5"
  of mixed 1 "$model" quantization.v0=4 quantization.v1=8
  "$check_values" "$model" "$folder/mixed.h5"
  case $name in bloom12 | mistral | starcoder2) ;; *) continue ;; esac
  for ranks in 1 4; do
    of "$ranks" "$ranks" "$model" quantization.v0=0.01 quantization.v1=1000
    "$compare" "$folder/$name.h5" "$folder/$ranks.h5"
  done
  echo "$name: the same for 1, 2 and 4 ranks"
done

gguf=$source/tests/golden/bloom12/model.gguf
of gguf 2 "$gguf" quantization.v0=0.01 quantization.v1=1000 run.stages=1
"$check_values" "$gguf" "$folder/gguf.h5"
h5diff "$folder/bloom12.h5" "$folder/gguf.h5" /transformer /transformer
echo "bloom12: a GGUF file gives the datasets of its folder"
