#!/usr/bin/env bash
# An evaluation that is killed, signalled or out of time is taken up by the same command, with another
# number of ranks too, and gives the figures of the uninterrupted one.
#   test_resume_evaluation.sh FPTQ_PIPELINE SOURCE_FOLDER [ROUNDS [SEED]]
set -euo pipefail
program=$(realpath "$1") source=$(realpath "$2")
rounds=${3:-4} seed=${4:-$((($(date +%s%N) / 1000) % 32768))}
# shellcheck source=tests/interrupted.sh
source "$source/tests/interrupted.sh"
interrupted_open
RANDOM=$seed
echo "seed $seed"
sets=$source/tests/golden/evaluation

# A checkpoint beside the model, a text and two sets: as long as it takes to be caught in the act.
cat >config.toml <<TOML
[model]
path = "$source/tests/demo/model"
[calibration]
data = "random-tokens"
samples = 4
sequence_length = 64
chunk_tokens = 64
[quantization]
group_size = 64
[output]
checkpoint = "model.h5"
[evaluation]
wikitext2 = "text.txt"
hellaswag = "hellaswag.jsonl"
mmlu = "$sets/mmlu"
sequence_length = 200
checkpoint = "model.h5"
[run]
threads = 1
TOML
lengthen() { # COUNT copies
    local copy
    for ((copy = 0; copy < $1; copy++)); do cat "$sets/text.txt" >&3; cat "$sets/hellaswag.jsonl" >&4; done \
        3>>text.txt 4>>hellaswag.jsonl
}
# evaluate RANKS [ARGUMENT ...], and figures_of FILE: what it found.
evaluate() { run "$1" eval --json out.json "${@:2}"; }
figures_of() {
    grep -vE '"(seconds|tokens|tokens_per_second|ranks|hosts|stages|replicas|threads|path|peak_memory|planned_memory)"' "$1"
}
tokens_of() { awk -F'[:,]' '/"tokens"/ { sum += $2 } END { print sum + 0 }' "$1"; }
scores_there() { there_is 'out.json.parts/scores-*.state'; }

run 1
[ "$status" = 0 ] || { cat log; exit 1; }
lengthen 4
while true; do
    run_timed 2 eval --json out.json
    [ "$status" = 0 ] || { cat log; exit 1; }
    [ "$milliseconds" -lt 2500 ] && [ "$(wc -l <hellaswag.jsonl)" -lt 20000 ] || break
    lengthen $((3000 * $(wc -l <hellaswag.jsonl) / (8 * milliseconds)))
done
mv out.json reference.json
whole=$(tokens_of reference.json)
echo "an uninterrupted run takes $milliseconds ms: $whole tokens"
[ ! -e out.json.parts ] || fail "the state of a run that is done is left"

# check_done WHAT: the run that has ended is whole, and has taken up what scores there were.
check_done() {
    checked=$((checked + 1))
    if [ "$status" != 0 ]; then
        fail "$1: status $status"
    elif ! cmp <(figures_of reference.json) <(figures_of out.json); then
        fail "$1: other figures"
    elif [ -e out.json.parts ] || [ -e out.json.tmp ]; then
        fail "$1: files are left: $(ls -d out.json.*)"
    elif [ "$scores" = 1 ] && ! grep -q "going on with an interrupted run" log; then
        fail "$1: what was scored is not taken up"
    fi
    rm -rf out.json out.json.parts
}
note_scores() { if scores_there; then scores=1; else scores=0; fi; }
choose() {
    ranks=$((RANDOM % 4 + 1))
    choose_shape $ranks
}
samples=8 # choose_shape's waves are of this many sequences
taken=0
for ((round = 1; round <= rounds; round++)); do
    interruptions=$((RANDOM % 2 + 1))
    for ((i = 0; i < interruptions; i++)); do
        choose
        start $ranks eval --json out.json "${shape[@]}"
        await_ranks $ranks
        case $((RANDOM % 3)) in
        0) await_that scores_there ;;
        *) sleep "$(awk -v ms=$milliseconds -v r=$RANDOM 'BEGIN { print ms / 1000 * r / 32768 }')" ;;
        esac
        expected=any
        case $((RANDOM % 3)) in
        0) signal KILL ;;
        1) signal KILL $((RANDOM % ranks)) ;;
        2)
            await_that grep -q "5 layers" log # the program is there to hear it
            kill -USR1 "$pid" 2>/dev/null || true
            expected=75
            ;;
        esac
        await
        note_scores
        if [ "$status" = 0 ]; then break; fi
        if [ -e out.json ]; then status=0 && break; fi # a rank that was killed when all was done
        [ $expected = any ] || [ "$status" = 75 ] || fail "round $round: SIGUSR1: status $status"
        [ "$status" != 75 ] || grep -q "stopped by SIGUSR1.*beside out.json.*goes on" log || fail "round $round: no message"
        [ $scores = 0 ] || taken=$((taken + 1))
    done
    if [ "$status" = 0 ]; then
        scores=0
    else
        choose
        evaluate $ranks "${shape[@]}"
    fi
    check_done "round $round (resumed with $ranks ranks)"
done
[ $taken -gt 0 ] || fail "no round had anything to go on with"
echo "$taken interruptions left scores"

# --- the time limit; another set; --restart; a damaged record; a second run
interrupt() {
    start 2 eval --json out.json
    await_that scores_there
    signal KILL
    await
    note_scores
}
evaluate 2 --set run.time_limit=1
{ [ "$status" = 75 ] && grep -q "time limit" log; } || fail "time_limit: status $status"
rm -rf out.json.parts
interrupt
cp text.txt other.txt
sed -i '1s/./X/' other.txt
evaluate 2 --set evaluation.wikitext2=other.txt
{ [ "$status" = 1 ] && grep -q "the requests of wikitext2 = .*--restart" log; } || fail "another set: status $status"
evaluate 1 --set evaluation.kv_cache=int8
{ [ "$status" = 1 ] && grep -q 'evaluation.kv_cache = "model" there, "int8" here' log; } || fail "another cache: status $status"
scores_there || fail "a refused run removed the state"
scores=0
evaluate 2 --restart
! grep -q "going on" log || fail "--restart goes on"
check_done "--restart"

interrupt
evaluate 2
[ "$(tokens_of out.json)" -lt "$whole" ] || fail "what was scored is computed again"
check_done "after a kill"

interrupt
for record in out.json.parts/scores-*.state; do
    printf 'damage' | dd of="$record" bs=1 seek=100 conv=notrunc status=none
done
evaluate 2
grep -q "warning: .*scores-.*checksum is wrong.*computed again" log || fail "a damaged record is not named"
scores=0
check_done "after a damaged record"

# One layer of the checkpoint at a time: the layers that are measured are not measured again.
layers=(--set evaluation.sensitivity=layers --set evaluation.limit=8)
run 1 eval --json out.json "${layers[@]}"
[ "$status" = 0 ] || { cat log; exit 1; }
mv reference.json all.json
mv out.json reference.json
start 2 eval --json out.json "${layers[@]}"
await_that there_is 'out.json.parts/layer-0001-*.state'
signal KILL
await
note_scores
evaluate 3 "${layers[@]}"
[ $scores = 0 ] || grep -q 'wikitext2, layer 0: going on with an interrupted run: \([0-9]*\) of \1 ' log || fail "layers: not taken up"
check_done "one layer at a time"
mv all.json reference.json
scores=0

start 2 eval --json out.json
await_that [ -e out.json.parts/fingerprint.state ]
signal STOP
second=0
timeout 60 mpirun -n 1 "$program" eval --json out.json config.toml >second.log 2>&1 || second=$?
signal CONT
await
{ [ "$second" = 1 ] && grep -q "another run is writing it" second.log; } || { cat second.log; fail "a second run: status $second"; }
check_done "beside a second run"

# Without --json, and where the results go to no file, nothing is kept.
start 2 eval
await_that grep -q "5 layers" log
kill -USR1 "$pid" || true
await
{ [ "$status" = 75 ] && grep -q "without --json nothing is kept" log; } || fail "without --json: status $status"
run 1 eval -q --json /dev/null
{ [ "$status" = 0 ] && [ ! -e /dev/null.parts ]; } || fail "/dev/null: status $status"
echo "$checked finished evaluations checked, $failed failed"
[ $failed = 0 ]
