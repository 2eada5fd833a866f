#!/usr/bin/env bash
# eval of a checkpoint beside its model: the same figures for any number of ranks, and what is wrong
# with a checkpoint is said.
#   test_evaluate_checkpoint.sh FPTQ_PIPELINE SOURCE_FOLDER
set -euo pipefail
program=$1 source=$2
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
sets=$source/tests/golden/evaluation
cat >"$folder/config.toml" <<END
[model]
path = "$source/tests/demo/model"
[calibration]
data = ["$source/tests/demo/text.jsonl.zst"]
samples = 8
sequence_length = 256
chunk_tokens = 64
[output]
checkpoint = "$folder/demo.h5"
[evaluation]
checkpoint = "$folder/demo.h5"
wikitext2 = "$sets/text.txt"
piqa = "$sets/piqa"
lambada = "$sets/lambada.jsonl"
sequence_length = 200
sensitivity = "linears"
[run]
threads = 1
END

# run LOG RANKS [VERB] [--set ...]
run() {
    local log=$1 ranks=$2
    shift 2
    mpirun -n "$ranks" "$program" "$@" "$folder/config.toml" >"$log" 2>&1 || {
        cat "$log"
        fail "$ranks ranks: $*"
    }
}

# evaluate NAME RANKS [SET ...]: results in NAME.json, those without times in NAME.figures
evaluate() {
    local name=$1 ranks=$2 arguments=()
    shift 2
    for setting in "$@"; do arguments+=(--set "$setting"); done
    run "$folder/$name.log" "$ranks" eval -q --json "$folder/$name.json" "${arguments[@]}"
    grep -vE '"(seconds|tokens|tokens_per_second|ranks|hosts|stages|replicas|threads|path|peak_memory|planned_memory)"' \
        "$folder/$name.json" >"$folder/$name.figures"
}

run "$folder/log" 2 -q
evaluate one 1
cat "$folder/one.log"
for ranks in 2 3; do
    evaluate "ranks-$ranks" "$ranks" run.threads=2
    cmp "$folder/one.figures" "$folder/ranks-$ranks.figures" || fail "$ranks ranks: other figures"
done
evaluate chunks 4 run.stages=2 run.replicas=2 calibration.chunk_tokens=37
cmp "$folder/one.figures" "$folder/chunks.figures" || fail "other chunks: other figures"
evaluate waves 2 run.stages=1 run.layers_held=2 run.wave=7
cmp "$folder/one.figures" "$folder/waves.figures" || fail "layers not all in memory: other figures"

# The model's rows are those of an evaluation without the checkpoint, and the checkpoint's those of
# an evaluation without the model, but for the comparison.
rows() { awk -v method="$2" '$0 ~ "  " method "  " { print $1, $NF != "" ? $0 : "" }' "$1" |
    sed -E 's/ +[0-9]+$//; s/ +/ /g' | grep -vE 'kl_divergence|same_top'; }
evaluate alone 2 evaluation.full_precision=false evaluation.sensitivity=none
grep -q 'full precision' "$folder/alone.log" && fail "full_precision = false: it is there"
cmp <(rows "$folder/one.log" fptq) <(rows "$folder/alone.log" fptq) || fail "the checkpoint alone differs"
awk '$3 == "kl_divergence" && $4 > 0.001 && $4 < 0.5 { kl = 1 }
     $3 == "same_top" && $4 > 0.8 && $4 < 1 { top = 1 }
     END { exit !(kl && top) }' "$folder/one.log" || fail "divergence or tokens are out of the ordinary"

# Keys and values in int8: nearly the same; the same for any chunks.
evaluate cache 2 evaluation.kv_cache=int8
evaluate cache-chunks 3 evaluation.kv_cache=int8 calibration.chunk_tokens=37
cmp "$folder/cache.figures" "$folder/cache-chunks.figures" || fail "other chunks: other figures with kv_cache = int8"
perplexity() { awk '$2 == "fptq" && $3 == "perplexity" { print $4; exit }' "$folder/$1.log"; }
awk -v a="$(perplexity one)" -v b="$(perplexity cache)" \
    'BEGIN { exit !(a != b && (a - b) ^ 2 < (0.02 * a) ^ 2) }' || fail "kv_cache = int8 changes nothing, or too much"

# The rotated model is the same function, also where the head was tied to the embedding: its weights
# in 8 bits and activations as they are make next to no difference.
nearly=(quantization.method=rtn quantization.weight_bits=8 quantization.activation_bits=16
    quantization.rotation=hadamard "output.checkpoint=$folder/rotated.h5")
arguments=()
for setting in "${nearly[@]}"; do arguments+=(--set "$setting"); done
run "$folder/log" 2 -q "${arguments[@]}"
evaluate rotated 2 "evaluation.checkpoint=$folder/rotated.h5" 'evaluation.piqa=""' 'evaluation.lambada=""' \
    evaluation.sensitivity=none
awk '$3 == "kl_divergence" { found = 1; exit !($4 < 0.0005) } END { exit !found }' "$folder/rotated.log" || {
    cat "$folder/rotated.log"
    fail "rotated: another function"
}
[ "$(h5dump -y -a /rotation "$folder/rotated.h5" | grep -c '"hadamard"')" = 1 ] || fail "rotated: no attribute"
h5dump -y -w 200 -d /config_json "$folder/rotated.h5" | grep -q '"tie_word_embeddings": false' ||
    fail "rotated: config_json says that the head is tied"
h5dump -y -a /rotation "$folder/demo.h5" >"$folder/log" 2>&1 && fail "not rotated: the attribute is there"
# Sensitivity. 8-bit weights alone, with all scales folded in, leave an error of rounding only.
awk '$1 ~ /^(static|equalized|dynamic)$/ { linears += $2; if ($3 + 0 <= 0 || $4 + 0 > 50) exit 2 }
     END { exit linears != 35 }' "$folder/one.log" || fail "errors of the linears"
run "$folder/log" 1 -q --set "calibration.ranges=\"$folder/demo.h5\"" --set "output.checkpoint=\"$folder/w8.h5\"" \
    --set quantization.policy=equalized --set quantization.weight_bits=8 --set quantization.activation_bits=16
texts=('evaluation.piqa=""' 'evaluation.lambada=""')
evaluate w8 1 "evaluation.checkpoint=$folder/w8.h5" "${texts[@]}"
awk '$1 == "none" { found = $2 == 35 && $3 + 0 > 0.1 && $4 + 0 < 1 } END { exit !found }' "$folder/w8.log" || {
    cat "$folder/w8.log"
    fail "errors of 8-bit weights"
}
# One layer at a time: each does less harm than all.
evaluate layers 2 evaluation.sensitivity=layers "${texts[@]}"
evaluate layers-waves 3 evaluation.sensitivity=layers run.stages=1 run.layers_held=2 run.wave=2 "${texts[@]}"
cmp "$folder/layers.figures" "$folder/layers-waves.figures" || fail "layers not all in memory: other sensitivity"
awk '$2 == "fptq" && $3 == "kl_divergence" { all = $4 }
     $1 ~ /^[0-4]$/ && NF == 5 { layers++; if ($3 <= 0 || $3 >= all) exit 2 }
     END { exit layers != 5 }' "$folder/layers.log" || {
    cat "$folder/layers.log"
    fail "divergences of the layers"
}

# refused PATTERN SET ...
refused() {
    local pattern=$1 arguments=() status=0
    shift
    for setting in "$@"; do arguments+=(--set "$setting"); done
    timeout 60 mpirun -n 3 "$program" eval "${arguments[@]}" "$folder/config.toml" >"$folder/log" 2>&1 || status=$?
    [ "$status" -eq 1 ] && [ "$(grep -c 'error: ' "$folder/log")" -eq 1 ] &&
        grep 'error: ' "$folder/log" | grep -Eq -- "$pattern" || {
        cat "$folder/log"
        fail "status $status (expected 1) or not one error with: $pattern"
    }
    echo "ok: $(grep 'error: ' "$folder/log")"
}

refused 'evaluation.sensitivity = "layers" compares evaluation.checkpoint .*: one of them is missing' \
    evaluation.sensitivity=layers evaluation.full_precision=false
refused 'rotated.h5: evaluation.sensitivity compares .* the checkpoint is of the rotated model' \
    "evaluation.checkpoint=$folder/rotated.h5"
refused 'none.h5: No such file' evaluation.checkpoint=none.h5
refused 'attribute model_type is "llama", but .*qwen2.* is "qwen2"' "model.path=$source/tests/golden/qwen2/model"
refused 'a checkpoint of another model: /model/.* is \[[0-9]+, [0-9]+\], but by .*llama_mha.* it must be \[[0-9]+, [0-9]+\]' \
    "model.path=$source/tests/golden/llama_mha/model"
refused 'none.jsonl: No such file' "evaluation.hellaswag=none.jsonl"
head -c 300000 "$folder/demo.h5" >"$folder/short.h5"
refused 'short.h5: ' "evaluation.checkpoint=$folder/short.h5"
refused 'text.txt: ' "evaluation.checkpoint=$sets/text.txt"
python=/usr/bin/python3
if ! $python -c 'import h5py' 2>/dev/null; then
    echo "h5py is not installed: its part is skipped"
    exit 0
fi
# A byte flipped in a chunk; datasets missing, with and without their lines in the manifest.
$python - "$folder" <<'PYTHON'
import shutil
import sys

import h5py

folder, path = sys.argv[1], "/model/layers/3/mlp/up_proj/weight"
with h5py.File(f"{folder}/demo.h5") as file:
    chunk = file[path].id.get_chunk_info(0)
data = bytearray(open(f"{folder}/demo.h5", "rb").read())
data[chunk.byte_offset + chunk.size // 2] ^= 0x10
open(f"{folder}/flipped.h5", "wb").write(data)
for name, forget in ("missing", False), ("forgotten", True):
    shutil.copy(f"{folder}/demo.h5", f"{folder}/{name}.h5")
    with h5py.File(f"{folder}/{name}.h5", "a") as file:
        scale = path.replace("weight", "weight_scale")
        del file[scale]
        if forget:
            lines = [line for line in file["manifest"][()] if not line.endswith(scale.encode())]
            assert len(lines) + 1 == len(file["manifest"])
            kind = file["manifest"].dtype
            del file["manifest"]
            file.create_dataset("manifest", data=lines, dtype=kind)
PYTHON
refused 'flipped.h5: damaged: /model/layers/3/mlp/up_proj/weight: differs from its checksum \(1 of' \
    "evaluation.checkpoint=$folder/flipped.h5"
refused 'missing.h5: damaged: /model/layers/3/mlp/up_proj/weight_scale: missing' \
    "evaluation.checkpoint=$folder/missing.h5"
refused 'forgotten.h5: no dataset /model/layers/3/mlp/up_proj/weight_scale' \
    "evaluation.checkpoint=$folder/forgotten.h5"
