#!/usr/bin/env bash
# The command line as users meet it: messages, exit statuses, one voice under mpirun.
#   test_cli.sh FPTQ_PIPELINE SOURCE_FOLDER
set -euo pipefail
program=$(realpath "$1") source=$(realpath "$2")
# shellcheck source=jobs/setup
source "$source/jobs/setup"
setup_mpi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
hint="Try 'fptq-pipeline --help'."
failed=0 checked=0

fail() {
  echo "FAIL: $*"
  failed=$((failed + 1))
}

# expect STATUS STDERR ARGUMENT...: the status and the whole of standard error; nothing on standard output.
expect() {
  local status=0 wanted=$1 message=$2
  shift 2
  checked=$((checked + 1))
  "$program" "$@" >out 2>err || status=$?
  [[ $status == "$wanted" ]] || fail "'$*' exits with $status, not $wanted"
  [[ $(<err) == "$message" ]] || fail "'$*' says: $(<err)"
  [[ ! -s out ]] || fail "'$*' writes to standard output: $(<out)"
}
error() {
  echo "fptq-pipeline: error: $1"
}

expect 2 "$(error "quantize needs a CONFIG.toml")"$'\n'"$hint"
expect 2 "$(error "there is no option --frobnicate")"$'\n'"$hint" --frobnicate run.toml
expect 2 "$(error "plan takes no --restart")"$'\n'"$hint" plan --restart run.toml
expect 2 "$(error "quantize takes no --measure")"$'\n'"$hint" --measure run.toml
for ranks in 0 x 65537 4x; do
  expect 2 "$(error "--simulate needs a number of ranks from 1 to 65536, not \"$ranks\"")"$'\n'"$hint" plan --simulate $ranks run.toml
done
expect 2 "$(error "the verb export is not available in this version")"$'\n'"$hint" export x.h5
expect 1 "$(error "run.toml: No such file or directory")" run.toml
expect 1 "$(error "$folder: Is a directory")" plan "$folder"

printf '[model]\npath = "m"\n[quantisation]\n' >run.toml
expect 1 "$(error "run.toml:3: there is no section [quantisation]; did you mean [quantization]?")" run.toml
expect 1 "$(error "run.toml:3: there is no section [quantisation]; did you mean [quantization]?")" plan run.toml
printf '[model]\npath = "m"\n[calibration]\ndata = "random-tokens"\n' >run.toml
expect 1 "$(error "run.toml: the key checkpoint of [output] is missing: the HDF5 file to write, NAME.h5")" run.toml
expect 2 "$(error '--set run.isa=sse: run.isa is "sse", but must be one of "auto", "portable", "avx2", "avx512", "avx512-bf16", "amx"')"$'\n'"$hint" \
  --set run.isa=sse run.toml
printf 'path = m\n' >run.toml
"$program" run.toml >out 2>err && fail "a file that is not TOML is taken"
grep -q '^fptq-pipeline: error: run.toml:1: not TOML: ' err || fail "not TOML: $(<err)"
head -c 2000000 /dev/zero >run.toml
expect 1 "$(error "run.toml: too long for a configuration file")" run.toml
printf '[model]\npath = "a\033[31mb"\n' >run.toml
"$program" run.toml >out 2>err && fail "an escape sequence is taken"
grep -q $'\033' err && fail "an escape sequence reaches the terminal"

# Results of eval side by side.
result() {
  echo "{\"set\": \"$1\", \"method\": \"$2\", \"shots\": 5, \"metrics\": {\"$3\": {\"value\": $4, \"standard_error\": $5}}}"
}
echo "{\"results\": [$(result wikitext2 "full precision" perplexity 17.5 0.25), $(result wikitext2 w perplexity 18.25 null)]}" >a.texts.json
echo "{\"results\": [$(result mmlu "full precision" acc 0.5 0.0125), $(result mmlu w acc 0.25 0.01)]}" >a.questions.json
"$program" report a.texts.json a.questions.json >out || fail "report exits with $?"
[[ $(<out) == "| method | mmlu 5-shot, acc |
|---|---:|
| full precision | 50.00 ± 1.25 |
| a | 25.00 ± 1.00 |

| method | wikitext2, perplexity |
|---|---:|
| full precision | 17.5000 |
| a | 18.2500 |" ]] || fail "report prints: $(<out)"
echo '{"results": [{"set": 3}]}' >b.json
expect 1 "$(error "b.json: these are no results of fptq-pipeline eval")" report a.texts.json b.json
echo '{"results": ' >b.json
expect 1 "$(error "b.json: line 2: unexpected token near end of file")" report b.json

# Help and version, without and with mpirun; the help has every key and every available verb.
"$program" --help >out.help
for word in samples group_size memory_limit checkpoint plan verify "Exit status"; do
  grep -q "$word" out.help || fail "--help lacks $word"
done
"$program" plan --help >out
for word in measure simulate; do
  grep -q -- "--$word" out || fail "plan --help lacks --$word"
done
"$program" verify --help >out
grep -q samples out && fail "verify --help has the configuration's keys"
block=$(sed -n '/^Configuration/,/^$/p' out.help)
[[ $(<"$source/README.md") == *"$block"* ]] || fail "README.md lacks the keys as --help has them"
[[ $("$program" --version) =~ ^fptq-pipeline\ [0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "--version"
[[ $(mpirun -n 3 "$program" --version | wc -l) == 1 ]] || fail "--version is not printed once by 3 ranks"

# Every rank exits with the status, one of them speaks: for a fault found before MPI_Init and after.
# together STATUS ARGUMENT...
together() {
  local wanted=$1
  shift
  checked=$((checked + 1))
  rm -f status.*
  # shellcheck disable=SC2016
  mpirun -n 3 sh -c '"$@"; echo $? >status.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}' sh "$program" "$@" >out 2>err
  [[ $(cat status.0 status.1 status.2 | tr '\n' ' ') == "$wanted $wanted $wanted " ]] ||
    fail "3 ranks of '$*' exit with $(cat status.* | tr '\n' ' '), not $wanted"
  [[ $(grep -c 'error:' err) == 1 ]] || fail "3 ranks of '$*' say: $(<err)"
}
together 2 --frobnicate
together 1 missing.toml
printf '[model]\n' >run.toml
together 1 run.toml
together 1 verify missing.h5

echo "$checked commands checked, $failed failed"
[[ $failed == 0 ]]
