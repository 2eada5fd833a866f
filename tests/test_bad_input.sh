#!/usr/bin/env bash
# Bad input: one clear message, the right exit status, nothing under the final name, within seconds.
#   test_bad_input.sh FPTQ_PIPELINE MAKE_MODEL SOURCE_FOLDER
set -euo pipefail
program=$1 make_model=$2 source=$3
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
demo=$source/tests/demo
passed=0 failed=0

# A small configuration on random tokens; cases change what they need by --set.
"$make_model" "$folder/model"
cat >"$folder/config.toml" <<END
[model]
path = "model"
[calibration]
data = "random-tokens"
samples = 4
sequence_length = 32
chunk_tokens = 16
[quantization]
group_size = 8
[output]
checkpoint = "$folder/out.h5"
END

# case NAME STATUS PATTERN [ARGUMENT ...]: run with 2 ranks; PATTERN (extended) must be in exactly one
# line, which is the only one that says "error".
case_of() {
    local name=$1 expected=$2 pattern=$3 status=0 lines
    shift 3
    rm -rf "$folder/out.h5" "$folder/out.parts"
    timeout 60 mpirun -n "${ranks:-2}" "$program" "$@" >"$folder/stdout" 2>"$folder/stderr" || status=$?
    lines=$(grep -c 'error: ' "$folder/stderr" || true)
    if [ "$status" -ne "$expected" ] || [ "$lines" -ne 1 ] ||
        ! grep 'error: ' "$folder/stderr" | grep -Eq -- "$pattern" || [ -e "$folder/out.h5" ] ||
        grep -Eq 'Sanitizer|runtime error' "$folder/stderr"; then
        echo "FAIL: $name: status $status (expected $expected), $lines error line(s), pattern: $pattern"
        grep -v -e "^--" -e "^Primary" -e "^a non-zero" -e "^mpirun detected" -e "^the job" -e "Process name" -e "Exit code" "$folder/stderr" | head -8 | sed 's/^/    /'
        failed=$((failed + 1))
    else
        echo "ok: $name: $(grep -m1 'error: ' "$folder/stderr")"
        passed=$((passed + 1))
    fi
}
config_case() {
    local name=$1 expected=$2 pattern=$3
    shift 3
    case_of "$name" "$expected" "$pattern" "$@" "$folder/config.toml"
}

# The small configuration itself works, so that each failure below is the case's own.
mpirun -n 2 "$program" -q "$folder/config.toml" >"$folder/stdout" 2>&1 || {
    echo "FAIL: the correct configuration"
    cat "$folder/stdout"
    exit 1
}

# --- command line and configuration
case_of "no configuration" 2 "CONFIG.toml"
case_of "unknown option" 2 "frobnicate" --frobnicate "$folder/config.toml"
case_of "configuration is missing" 1 "nowhere.toml" "$folder/nowhere.toml"
printf '[model]\npath = "model\n' >"$folder/broken.toml"
case_of "configuration is no TOML" 1 "broken.toml:2" "$folder/broken.toml"
config_case "unknown key" 2 "group_sise.*group_size" --set quantization.group_sise=8
config_case "unknown section" 2 "quantisation.*quantization" --set quantisation.group_size=8
config_case "wrong type" 2 "samples" --set 'calibration.samples="many"'
config_case "out of range" 2 "samples" --set calibration.samples=0
config_case "wrong word" 2 "fptq" --set quantization.method=awq
config_case "isa of no processor" 2 "run.isa.*portable" --set run.isa=neon
if ! grep -qw amx_bf16 /proc/cpuinfo; then
    config_case "isa that this processor lacks" 1 "run.isa.*amx.*processor" --set run.isa=amx
fi
config_case "thresholds the wrong way round" 1 "v0|v1" --set quantization.v0=100 --set quantization.v1=10

# --- work that cannot be
config_case "more stages than layers" 1 "run.stages is 3.*2 layers" --set run.stages=3
config_case "more replicas than samples" 1 "run.replicas" --set run.replicas=9
config_case "stages x replicas beyond the ranks" 1 "ask for 4 ranks" --set run.stages=2 --set run.replicas=2
ranks=9 config_case "more ranks than work" 1 "more than there is work for"
config_case "sequence beyond the model" 1 "sequence_length.*2048 positions" --set calibration.sequence_length=4096
config_case "rotation of a model with LayerNorm" 1 "rotation.*\"bloom\" subtract the mean" \
    --set quantization.rotation=hadamard --set "model.path=\"$source/tests/golden/bloom8/model\""
config_case "too little memory" 1 "memory_limit" --set run.memory_limit=1MiB

# --- the model
model_case() {
    local name=$1 pattern=$2 model=$3
    config_case "$name" 1 "$pattern" --set "model.path=\"$folder/$model\""
}
model_case "no model" "nomodel" nomodel
"$make_model" "$folder/unknown" model_type=gpt_neox
model_case "unknown architecture" "gpt_neox.*supported" unknown
"$make_model" "$folder/missing" missing=model.layers.1.mlp.up_proj.weight
model_case "a missing tensor" "model.layers.1.mlp.up_proj.weight" missing
"$make_model" "$folder/transposed" transposed=model.layers.1.mlp.down_proj.weight
model_case "a wrong shape" "down_proj.weight has shape .20, 24., expected .24, 20." transposed
"$make_model" "$folder/nan" nan=model.layers.1.mlp.gate_proj.weight
model_case "NaN in a weight" "layer 1, site mlp_hidden.*NaN.*gate_proj.weight has NaN in row" nan
"$make_model" "$folder/inf" inf=model.layers.0.input_layernorm.weight type=f32
model_case "an infinity in a norm" "layer 0, site attention_input.*input_layernorm.weight has an infinity" inf
"$make_model" "$folder/last" nan=lm_head.weight
model_case "NaN in the head" "lm_head.weight has NaN" last
"$make_model" "$folder/heads" heads=5
sed -i 's/"num_key_value_heads":2/"num_key_value_heads":3/' "$folder/heads/config.json"
model_case "heads that do not divide" "num_attention_heads 5 is no multiple" heads
cp -r "$folder/model" "$folder/short"
truncate -s -10 "$folder/short/model.safetensors"
model_case "a truncated weight file" "short/model.safetensors" short
cp -r "$folder/model" "$folder/lying"
printf '\xff\xff\xff\xff\xff\xff\xff\x7f' | dd of="$folder/lying/model.safetensors" conv=notrunc status=none
model_case "a lying header" "lying/model.safetensors" lying
cp -r "$folder/model" "$folder/nojson"
echo '{"model_type": ' >"$folder/nojson/config.json"
model_case "a broken config.json" "nojson/config.json" nojson
mkdir "$folder/shards"
cp "$folder/model/config.json" "$folder/shards"
echo '{"weight_map":{"model.norm.weight":"model-00001-of-00002.safetensors"}}' >"$folder/shards/model.safetensors.index.json"
model_case "a missing shard" "model-00001-of-00002.safetensors" shards
echo '{"weight_map":{"model.norm.weight":"../model/model.safetensors"}}' >"$folder/shards/model.safetensors.index.json"
model_case "an index that leaves the folder" "index.json" shards
head -c 100 /dev/urandom >"$folder/noise.gguf"
model_case "noise for a GGUF" "noise.gguf" noise.gguf

# --- the data
data_case() {
    local name=$1 pattern=$2 data=$3
    config_case "$name" 1 "$pattern" --set "model.path=\"$demo/model\"" --set "calibration.data=[\"$data\"]"
}
data_case "no data" "nodata" "$folder/nodata.jsonl"
data_case "a glob that matches nothing" "nodata" "$folder/nodata*.jsonl"
data_case "an ending not known" "data.csv" "$folder/data.csv"
: >"$folder/empty.jsonl"
data_case "empty data" "empty.jsonl|0 tokens|too few" "$folder/empty.jsonl"
echo '{"text": "too short"}' >"$folder/few.jsonl"
data_case "too few tokens" "window" "$folder/few.jsonl"
printf '{"text": "bad \xff byte"}\n' >"$folder/utf8.jsonl"
data_case "invalid UTF-8" "utf8.jsonl.*1" "$folder/utf8.jsonl"
echo '{"meta": {}}' >"$folder/notext.jsonl"
data_case "a record without text" "notext.jsonl.*1.*text" "$folder/notext.jsonl"
head -c -20 "$demo/text.jsonl.zst" >"$folder/cut.jsonl.zst"
config_case "a truncated .zst" 1 "cut.jsonl.zst" --set "model.path=\"$demo/model\"" \
    --set "calibration.data=[\"$folder/cut.jsonl.zst\"]" --set calibration.samples=100000
cp "$demo/text.jsonl.zst" "$folder/corrupt.jsonl.zst"
printf 'xxxxxxxxxxxxxxxx' | dd of="$folder/corrupt.jsonl.zst" bs=1 seek=200 conv=notrunc status=none
data_case "a corrupt .zst" "corrupt.jsonl.zst" "$folder/corrupt.jsonl.zst"
cp -r "$folder/model" "$folder/tokenizer"
cp "$demo/model/tokenizer.json" "$folder/tokenizer"
config_case "a tokenizer that does not fit" 1 "vocabulary" --set "model.path=\"$folder/tokenizer\"" \
    --set "calibration.data=[\"$demo/text.jsonl.zst\"]"
config_case "text without a tokenizer" 1 "tokenizer" --set "calibration.data=[\"$demo/text.jsonl.zst\"]"

# --- the output
config_case "an output folder that is not there" 1 "nofolder" --set "output.checkpoint=\"$folder/nofolder/x.h5\""
config_case "an output without .h5" 1 "\.h5" --set "output.checkpoint=\"$folder/x.bin\""
mkdir "$folder/occupied.h5"
config_case "an output that is a folder" 1 "occupied.h5" --set "output.checkpoint=\"$folder/occupied.h5\""
if [ -w /dev/full ] && [ "$(id -u)" = 0 ] && mkdir "$folder/small" && mount -t tmpfs -o size=64k tmpfs "$folder/small" 2>/dev/null; then
    config_case "a full disk" 3 "disk is full|No space|disk full" --set "output.checkpoint=\"$folder/small/x.h5\""
    [ -e "$folder/small/x.h5" ] && { echo "FAIL: a full disk left a checkpoint"; failed=$((failed + 1)); }
    umount "$folder/small"
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
