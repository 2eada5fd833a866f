#!/usr/bin/env bash
# The linears of a checkpoint compute what its datasets say, for every policy and kind of weights.
#   test_linears.sh FPTQ_PIPELINE CHECK_LINEARS SOURCE_FOLDER
set -euo pipefail
program=$1 check_linears=$2 source=$3
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"

cat >"$folder/config.toml" <<END
[calibration]
data = "random-tokens"
samples = 3
sequence_length = 40
[quantization]
group_size = 24
END

# check MODEL "KIND of one linear at least, as the tool prints it" [quantization.KEY=VALUE ...]
check() {
  local model=$1 expected=$2
  shift 2
  quantize check 1 "$folder/config.toml" "model.path=\"$source/tests/golden/$model/model\"" "$@"
  "$check_linears" "$source/tests/golden/$model/model" "$folder/check.h5" >"$folder/log" &&
    grep -q "$expected" "$folder/log" || {
    cat "$folder/log"
    fail "$model $*: no linear is $expected, or its output is not what the checkpoint says"
  }
  echo "$model $*: $(tail -n 1 "$folder/log" | sed 's/.*: //')"
}

check llama_gqa 'q_proj *static *4 bits ' quantization.policy=static
check qwen2 'down_proj *static *4 bits ' quantization.policy=static quantization.group_size=0 quantization.symmetric=true
check llama_gqa 'down_proj *equalized *4 bits, equalized ' quantization.policy=equalized
check bloom12 'dense_4h_to_h *equalized *4 bits, equalized at run time ' quantization.policy=equalized
check bloom8 'query_key_value *dynamic *4 bits ' quantization.policy=dynamic quantization.group_size=64
check llama_mha 'q_proj *equalized-dynamic *4 bits, equalized ' quantization.method=smoothquant quantization.weight_bits=4
check bloom12 'query_key_value *equalized-dynamic *8 bits, equalized ' quantization.method=smoothquant
check qwen2 'q_proj *equalized *8 bits, equalized ' quantization.method=smoothquant quantization.policy=static
check qwen2 'gate_proj *none *4 bits ' quantization.method=rtn quantization.activation_bits=16
check bloom12 'dense_4h_to_h *none *8 bits ' quantization.method=rtn quantization.activation_bits=16 quantization.weight_bits=8
