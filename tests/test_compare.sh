#!/usr/bin/env bash
# jobs/compare on the demo's model: tables of the methods, made once; jobs/sweep from the ranges of one.
#   test_compare.sh FPTQ_PIPELINE SOURCE_FOLDER
set -euo pipefail
program=$(realpath "$1") source=$(realpath "$2")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
zstd -dc "$source/tests/demo/text.jsonl.zst" >all
head -c 20000 all >text.raw
# Questions whose answer the model finds by the text alone: PIQA's format.
mkdir piqa
for i in 1 2 3 4; do
  echo "{\"goal\": \"goal $i\", \"sol1\": \"the first\", \"sol2\": \"the second $i\"}"
done >piqa/valid.jsonl
printf '0\n1\n0\n1\n' >piqa/valid-labels.lst
{
  sed -n '/^\[output\]/q; p' "$source/configs/demo.toml" | sed "s|\"\.\./tests|\"$source/tests|"
  printf '[evaluation]\nwikitext2 = "%s"\nwindows = 2\nsequence_length = 256\npiqa = "%s"\n' \
    "$folder/text.raw" "$folder/piqa"
} >base.toml

"$source/jobs/compare" -p "$program" -o out base.toml rtn-w4a8 fptq-log2 >tables 2>log || {
  cat log
  exit 1
}
cat tables
[[ $(grep -c '^| full precision |' tables) == 2 && $(grep -c '^| fptq-log2 |' tables) == 2 ]]
[[ $(grep -c '^| rtn-w4a8 |' tables) == 2 ]]
grep -q 'wikitext2, kl_divergence' tables
# What is done is not done again; another method is added.
"$source/jobs/compare" -p "$program" -o out base.toml rtn-w4a8 fptq-log2 rtn-w4a16 >more 2>log
[[ $(grep -c 'tokens/s' log) -gt 0 ]] # the new one
cmp <(grep -v rtn-w4a16 more) tables
if "$source/jobs/compare" -p "$program" -o out base.toml no-such-method 2>log; then
  exit 1
fi
grep -q 'there is no .*compare-no-such-method.toml' log
"$source/jobs/sweep" -p "$program" -w 1 -r out/rtn-w4a8.h5 -o sweep base.toml "0.5 15" "5 150" >tables 2>log || {
  cat log
  exit 1
}
cat tables
sed -i -n '/wikitext2, perplexity/,$p' tables
grep -q '^| full precision | | | | | [0-9.]* |' tables
# Policies of five layers with four inputs each; three perplexities.
[[ $(awk -F' *[|] *' '/^\| [0-9]/ && $4 + $5 + $6 == 20 { print $2, $3 }' tables | xargs) == "0.5 5 0.5 150 15 150" ]]
[[ $(awk -F' *[|] *' '/^\| [0-9]/ { print $7 }' tables | sort -u | wc -l) == 3 ]]
for config in "$source"/configs/compare-*.toml; do
  "$program" plan "$config" >plan || {
    echo "FAIL: plan $config"
    exit 1
  }
done
