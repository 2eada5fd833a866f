#!/usr/bin/env bash
# Every method on a small random model: the checkpoint verifies, says what the model's tensors are, and is
# the same for 1, 2 and 3 ranks; in f32 on the portable path too.
#   test_methods.sh FPTQ_PIPELINE CHECK_VALUES COMPARE_TOOL SOURCE_FOLDER
set -euo pipefail
program=$1 check_values=$2 compare=$3 source=$4
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"

cat >"$folder/config.toml" <<END
[calibration]
data = "random-tokens"
samples = 3
sequence_length = 40
chunk_tokens = 16
[quantization]
group_size = 24
END

# of NAME RANKS MODEL SET ...: quantize it into NAME.h5
of() {
  quantize "$1" "$2" "$folder/config.toml" "model.path=\"$source/tests/golden/$3/model\"" "${@:4}"
}

# attribute LINEAR NAME: as h5dump has it
attribute() {
  h5dump -y -w 200 -a "/$1/$2" "$folder/1.h5" | sed -n '/DATA {/{n;s/^ *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p}'
}

# method MODEL "ALPHA" "POLICY WEIGHT_BITS GROUP_SIZE SYMMETRIC of the first linear" SET ...
# The third is a pattern.
method() {
  local model=$1 alpha=$2 expected=$3
  shift 3
  of 1 1 "$model" "$@"
  "$program" verify -q "$folder/1.h5" >/dev/null
  # shellcheck disable=SC2086
  "$check_values" "$source/tests/golden/$model/model" "$folder/1.h5" $alpha
  local linear=model/layers/0/self_attn/q_proj found
  [ "${model#bloom}" = "$model" ] || linear=transformer/h/0/self_attention/query_key_value
  found=$(for name in input_policy weight_bits group_size symmetric; do attribute $linear $name; done | xargs)
  # shellcheck disable=SC2053
  [[ $found == $expected ]] || fail "$model $*: $linear has the attributes $found, not $expected"
  # Three replicas of two layers share the linears of a layer.
  of 2 2 "$model" "$@"
  of 3 3 "$model" run.stages=1 run.replicas=3 "$@"
  "$compare" "$folder/1.h5" "$folder/2.h5"
  "$compare" "$folder/1.h5" "$folder/3.h5"
  of f32 2 "$model" run.precision=f32 "$@"
  of portable 1 "$model" run.precision=f32 run.isa=portable "$@"
  "$compare" "$folder/f32.h5" "$folder/portable.h5"
  echo "$model $*: the same for 1, 2 and 3 ranks"
}

method llama_gqa "" "none 4 24 0" quantization.method=rtn quantization.activation_bits=16
method qwen2 "" "dynamic 8 0 1" quantization.method=rtn quantization.weight_bits=8
method bloom12 "" "equalized 8 0 1" quantization.policy=equalized quantization.weight_bits=8
method llama_gqa 0.5 "equalized-dynamic 8 0 1" quantization.method=smoothquant
method bloom12 0.8 "equalized 4 24 1" quantization.method=smoothquant quantization.alpha=0.8 \
  quantization.policy=static quantization.weight_bits=4 quantization.symmetric=true output.compression=zstd
method qwen2 clipped "static 4 24 0" quantization.clip=mse quantization.v0=1000 quantization.v1=1000
# Chosen by measuring: any policy.
method bloom12 clipped "* 4 24 0" quantization.policy=error quantization.clip=output \
  quantization.static_scale=least-squares
method qwen2 "" "* 8 0 1" quantization.policy=error quantization.weight_bits=8
