#!/usr/bin/env bash
# eval: figures equal transformers' as recorded, the same to the last bit for any number of ranks, and
# what is wrong is said.
#   test_evaluate.sh FPTQ_PIPELINE SOURCE_FOLDER
set -euo pipefail
program=$1 source=$2
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
sets=$source/tests/golden/evaluation
cat >"$folder/config.toml" <<END
[model]
path = "$source/tests/demo/model"
[calibration]
chunk_tokens = 64
[evaluation]
wikitext2 = "$sets/text.txt"
piqa = "$sets/piqa"
hellaswag = "$sets/hellaswag.jsonl"
arc_easy = "$sets/arc_easy.jsonl"
mmlu = "$sets/mmlu"
lambada = "$sets/lambada.jsonl"
winogrande = "$sets/winogrande.jsonl"
sequence_length = 200
shots = 2
[run]
precision = "f32"
threads = 1
END

# evaluate NAME RANKS [SET ...]: results in NAME.json, those without times in NAME.figures
evaluate() {
    local name=$1 ranks=$2 arguments=()
    shift 2
    for setting in "$@"; do arguments+=(--set "$setting"); done
    mpirun -n "$ranks" "$program" eval -q --json "$folder/$name.json" "${arguments[@]}" \
        "$folder/config.toml" >"$folder/$name.log" 2>&1 || {
        cat "$folder/$name.log"
        fail "eval with $ranks ranks, $*"
    }
    grep -vE '"(seconds|tokens|tokens_per_second|ranks|hosts|stages|replicas|threads|path|peak_memory|planned_memory)"' \
        "$folder/$name.json" >"$folder/$name.figures"
}

evaluate one 1
cat "$folder/one.log"
# recorded: SET METRIC VALUE, in float32 by transformers
while read -r set metric expected; do
    found=$(awk -v set="$set" -v metric="$metric" '$1 ~ "^" set "$" {
        for (i = 1; i <= NF; i++) if ($i == metric) print $(i + 1) }' "$folder/one.log")
    awk -v a="$found" -v b="$expected" 'BEGIN { exit !(a != "" && (a - b) ^ 2 <= (1e-4 * b + 6e-5) ^ 2) }' ||
        fail "$set: $metric is $found, recorded is $expected"
done <"$sets/expected.txt"

for ranks in 2 5; do
    evaluate "ranks-$ranks" "$ranks" run.threads=2
    cmp "$folder/one.figures" "$folder/ranks-$ranks.figures" || fail "$ranks ranks: other figures"
done
evaluate chunks 4 run.stages=2 run.replicas=2 calibration.chunk_tokens=37
cmp "$folder/one.figures" "$folder/chunks.figures" || fail "other chunks: other figures"
evaluate waves 4 run.stages=2 run.replicas=2 run.layers_held=1 run.wave=5
cmp "$folder/one.figures" "$folder/waves.figures" || fail "layers not all in memory: other figures"
# Two passes through the stage of three layers, one through that of two.
evaluate uneven 2 run.stages=2 run.layers_held=2 run.wave=5
cmp "$folder/one.figures" "$folder/uneven.figures" || fail "waves through one of two stages: other figures"
# One token after the other, and packs that hold several items.
evaluate single 2 calibration.chunk_tokens=1 evaluation.windows=1
evaluate packed 2 calibration.chunk_tokens=500 evaluation.windows=1
cmp "$folder/single.figures" "$folder/packed.figures" || fail "items packed together: other figures"
evaluate plain 2 run.precision=auto evaluation.limit=3 evaluation.windows=2 evaluation.shots=0
grep -q '"count": 3' "$folder/plain.json" || fail "limit"

# refused STATUS PATTERN SET ...
refused() {
    local expected=$1 pattern=$2 arguments=() status=0
    shift 2
    for setting in "$@"; do arguments+=(--set "$setting"); done
    timeout 60 mpirun -n 2 "$program" eval "${arguments[@]}" "$folder/config.toml" >"$folder/log" 2>&1 || status=$?
    [ "$status" -eq "$expected" ] && [ "$(grep -c 'error: ' "$folder/log")" -eq 1 ] &&
        grep 'error: ' "$folder/log" | grep -Eq -- "$pattern" || {
        cat "$folder/log"
        fail "status $status (expected $expected) or not one error with: $pattern"
    }
    echo "ok: $(grep 'error: ' "$folder/log")"
}
refused 1 'none.jsonl: No such file' "evaluation.hellaswag=none.jsonl"
refused 1 'sequence_length is 513, but the model has 512' evaluation.sequence_length=513
refused 1 'nothing to evaluate' evaluation.full_precision=false
refused 1 'none.h5: No such file' evaluation.checkpoint=none.h5
refused 1 'puts no token in front' 'evaluation.bos="always"'
echo '{"ctx": "a", "label": 0, "endings": ["x", "y"' >"$folder/broken.jsonl"
refused 1 'broken.jsonl:1: not a JSON object' "evaluation.hellaswag=$folder/broken.jsonl"
{ printf '{"ctx": "a", "label": 0, "endings": ["x", "'; printf 'y z %.0s' {1..700}; echo '"]}'; } >"$folder/long.jsonl"
refused 1 'item 0 has a choice of [0-9]+ tokens, more than the 512 positions' "evaluation.hellaswag=$folder/long.jsonl"
# A context longer than the model's positions loses its beginning, which is counted.
{ printf '{"ctx": "'; printf 'y z %.0s' {1..700}; echo '", "label": 0, "endings": ["x", "y"]}'; } >"$folder/long.jsonl"
evaluate long 2 "evaluation.hellaswag=$folder/long.jsonl"
grep -q 'hellaswag: 2 of 2 contexts were longer' "$folder/long.log" || fail "truncation is not reported"

# A trained model on real text, where there is one: transformers' own perplexity of 8 windows.
model=${FPTQ_TEST_DATA:-}/models/stories260K text=${FPTQ_TEST_DATA:-}/wikitext2/wiki.test.raw
if [[ -n ${FPTQ_TEST_DATA:-} && -e $model && -e $text ]]; then
    printf '[model]\npath = "%s"\n[evaluation]\nwikitext2 = "%s"\nwindows = 8\n' "$model" "$text" >"$folder/stories.toml"
    mpirun -n 2 "$program" eval -q "$folder/stories.toml" >"$folder/log"
    awk '$1 == "wikitext2" { right = $5 > 130.36 && $5 < 130.373 } END { exit !right }' "$folder/log" || {
        cat "$folder/log"
        fail "stories260K: the perplexity is not 130.3665"
    }
    echo "ok: stories260K has the recorded perplexity"
fi
