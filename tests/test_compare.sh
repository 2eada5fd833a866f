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
# Stopped in the middle of a set (or, on a fast machine, done before): it goes on there.
sed 's/^windows = .*/windows = 0/; s/^sequence_length = 256/sequence_length = 64/' base.toml >long.toml
head -c 120000 all >text.raw
compare_long() { "$source/jobs/compare" -p "$program" -o long long.toml rtn-w4a8 >tables-long 2>log; }
compare_long &
tries=0
until compgen -G 'long/*.json.parts/scores-*' >/dev/null || ! kill -0 $! 2>/dev/null || ((tries++ > 3000)); do sleep 0.01; done
pkill -USR1 -P $! -f jobs/compare || true
status=0
wait $! || status=$?
echo "stopped: status $status"
if [[ $status != 0 ]]; then
  [[ $status == 75 ]] && grep -q 'stopped by SIGUSR1.*goes on with it' log
  compare_long
  grep 'wikitext2: going on with an interrupted run' log
  cp tables-long tables-resumed
  rm long/*.json
  compare_long
  cmp tables-long tables-resumed
fi
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
