#!/usr/bin/env bash
# Nothing is lost: runs that are killed, signalled, out of time or out of disk are taken up by the same
# command, with another number of ranks too, and give the checkpoint of the uninterrupted run.
#   test_resume.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER FAULTS_LIBRARY [ROUNDS [SEED]]
# FAULTS_LIBRARY: tests/preload_faults.c, or "none". ROUNDS of the kill matrix: 10.
# FPTQ_TEST_RESUME_SAMPLES: windows of calibration, the longer the run the more is seen;
# FPTQ_TEST_RESUME_MODEL: another model than the demo; FPTQ_TEST_RESUME_ONLY=kills: the matrix alone.
set -euo pipefail
program=$(realpath "$1") compare=$(realpath "$2") source=$(realpath "$3") faults=$4
rounds=${5:-10} seed=${6:-$((($(date +%s%N) / 1000) % 32768))}
[ "$faults" = none ] || faults=$(realpath "$faults")
# shellcheck source=jobs/setup
source "$source/jobs/setup"
setup_mpi
folder=$(mktemp -d)
started=()
finish() {
    for pid in "${started[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap finish EXIT
cd "$folder"
RANDOM=$seed
echo "seed $seed"
samples=${FPTQ_TEST_RESUME_SAMPLES:-60}
failed=0 checked=0

cat >config.toml <<TOML
[model]
path = "${FPTQ_TEST_RESUME_MODEL:-$source/tests/demo/model}"
[calibration]
data = "random-tokens"
samples = $samples
sequence_length = 256
chunk_tokens = 64
[quantization]
group_size = 64
static_scale = "least-squares"
[output]
checkpoint = "out.h5"
compression = "zstd"
[run]
threads = 1
TOML
# For each rank: note the process, then be the program.
cat >rank.sh <<'SCRIPT'
echo $$ >"pids/${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"
[ -z "${PRELOAD:-}" ] || export LD_PRELOAD=$PRELOAD
exec "$@"
SCRIPT

fail() {
    echo "FAIL: $*"
    sed 's/^/    /' log | grep -v -e '---' -e '^ *$' | head -12
    failed=$((failed + 1))
}

# start RANKS [ARGUMENT ...]: in the background; pid is mpirun's.
start() {
    local ranks=$1
    shift
    rm -rf pids
    mkdir pids
    echo "$*" >arguments
    mpirun -n "$ranks" sh rank.sh "$program" "$@" config.toml >log 2>&1 &
    pid=$!
    started=("$pid")
}

# signal SIGNAL [RANK]: to all ranks, or one.
signal() {
    local pids
    mapfile -t pids < <(if [ -n "${2:-}" ]; then cat "pids/$2"; else cat pids/*; fi)
    kill "-$1" "${pids[@]}" 2>/dev/null || true
}

# Wait for the job's end: status.
await() {
    status=0
    { wait "$pid" || status=$?; } 2>/dev/null
    started=()
}

run() {
    start "$@"
    await
}

# Every rank's process is there.
await_ranks() {
    local tries=0
    until [ "$(cat pids/* 2>/dev/null | wc -l)" -ge "$1" ] || [ $((tries += 1)) -gt 500 ]; do sleep 0.02; done
}

# Until the job has saved ranges (or ended).
await_state() {
    local tries=0
    until compgen -G "out.parts/ranges-*.state" >/dev/null || [ $((tries += 1)) -gt 1500 ] || ! kill -0 "$pid" 2>/dev/null; do
        sleep 0.02
    done
}

# finish_run WHAT: with any number of ranks; the checkpoint is the reference's, nothing is left.
finish_run() {
    local ranks=$((RANDOM % 4 + 1))
    choose_shape $ranks
    run $ranks "${shape[@]}"
    checked=$((checked + 1))
    if [ "$status" != 0 ]; then
        fail "$1: resumed with $ranks ranks: status $status"
    elif ! "$compare" reference.h5 out.h5; then
        fail "$1: the resumed checkpoint differs"
    elif [ -e out.h5.tmp ] || compgen -G "out.parts/*.state*" >/dev/null || compgen -G "out.parts/*.tmp" >/dev/null ||
        { [ -e out.parts ] && ! grep -q "output.layout=sharded" arguments; }; then
        fail "$1: files are left: $(ls out.parts)"
    fi
    rm -rf out.h5 out.parts out.h5.tmp
}

# A file under the final name, if there is one, is complete.
check_final() {
    if [ -e out.h5 ]; then "$compare" reference.h5 out.h5 || fail "$1: a wrong file under the final name"; fi
}

# shape: random stages for $1 ranks, a random layout: what the result does not depend on.
shape=()
choose_shape() {
    shape=()
    if [ $((RANDOM % 2)) = 0 ]; then shape+=(--set "run.stages=$((RANDOM % $1 + 1))"); fi
    if [ $((RANDOM % 4)) = 0 ]; then shape+=(--set output.layout=sharded); fi
}

# --- the reference, and how long it takes: on a fast machine more samples, so that it can be caught in
# the act
while true; do
    begin=$(date +%s%N)
    run 2
    [ "$status" = 0 ] || { cat log; exit 1; }
    milliseconds=$((($(date +%s%N) - begin) / 1000000))
    mv out.h5 reference.h5
    [ $milliseconds -lt 2500 ] && [ "$samples" -lt 20000 ] || break
    samples=$((samples * 4000 / milliseconds + 1))
    sed -i "s/^samples = .*/samples = $samples/" config.toml
done
echo "an uninterrupted run takes $milliseconds ms with $samples samples"

# --- kills at random moments, and at random operations on files
tally_none=0 tally_calibrating=0 tally_quantizing=0 tally_complete=0
for ((round = 1; round <= rounds; round++)); do
    what="round $round:"
    for ((kills = RANDOM % 3 + 1; kills > 0; kills--)); do
        ranks=$((RANDOM % 4 + 1)) victim=$((RANDOM % ranks))
        choose_shape $ranks
        if [ "$faults" != none ] && [ $((RANDOM % 2)) = 0 ]; then
            at=$((RANDOM % 3 == 0 ? RANDOM % 300 + 1 : RANDOM % 40 + 1))
            what+=" rank $victim of $ranks at operation $at;"
            PRELOAD=$faults FAULT_RANK=$victim FAULT_AT=$at FAULT_KIND=kill run $ranks "${shape[@]}"
        else
            delay=$(((RANDOM * 32768 + RANDOM) % milliseconds))
            start $ranks "${shape[@]}"
            await_ranks $ranks
            sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
            if [ $((RANDOM % 3)) = 0 ]; then
                what+=" all $ranks after $delay ms;"
                signal KILL
            else
                what+=" rank $victim of $ranks after $delay ms;"
                signal KILL "$victim"
            fi
            await
        fi
        if [ "$status" = 0 ]; then
            what+=" (was complete)"
            tally_complete=$((tally_complete + 1))
            check_final "$what"
            break
        elif compgen -G "out.parts/layer-*.h5" >/dev/null; then
            tally_quantizing=$((tally_quantizing + 1))
        elif compgen -G "out.parts/ranges-*.state" >/dev/null; then
            tally_calibrating=$((tally_calibrating + 1))
        else
            tally_none=$((tally_none + 1))
        fi
        check_final "$what"
    done
    finish_run "$what"
    echo "$what same checkpoint"
done
echo "killed: $tally_none before the first save, $tally_calibrating with ranges saved, $tally_quantizing with finished layers; $tally_complete had ended"

if [ "${FPTQ_TEST_RESUME_ONLY:-}" = kills ]; then
    echo "$checked resumed runs checked, $failed failed"
    exit $((failed > 0))
fi

# --- signals: exit status 75, the state is there
for name in USR1 TERM INT; do
    start 3
    await_ranks 3
    await_state
    if [ $name = USR1 ]; then kill -USR1 "$pid"; else signal "$name"; fi
    await
    if [ "$status" = 75 ]; then
        [ "$(grep -c "stopped by SIG$name.*the same command goes on" log)" = 1 ] || fail "SIG$name: no message, or more than one"
        [ -e out.parts/fingerprint.state ] || fail "SIG$name: no state"
        echo "SIG$name: status 75"
    elif [ "$status" != 0 ] || [ "$name" = USR1 ]; then
        fail "SIG$name: status $status"
    fi
    check_final "SIG$name"
    rm -f out.h5
    finish_run "after SIG$name"
done

# --- the time limit; another configuration; --restart; a damaged state
run 2 --set run.time_limit=1
[ "$status" = 75 ] || [ "$milliseconds" -lt 1500 ] || fail "time_limit: status $status"
if [ "$status" = 75 ]; then
    echo "time limit: status 75"
    run 2 --set quantization.v0=10
    { [ "$status" = 1 ] && grep -q "quantization.v0 = 15.0 there, 10.0 here.*--restart" log; } || fail "another configuration: status $status"
    run 2 --set run.isa=portable
    { [ "$status" = 1 ] && grep -q "run.isa = " log; } || fail "other instructions: status $status"
    [ -e out.parts/fingerprint.state ] || fail "a refused run removed the state"
    SLURM_JOB_END_TIME=$(date +%s) run 2
    { [ "$status" = 75 ] && grep -q "time limit" log; } || fail "the end of the SLURM job: status $status"
fi
finish_run "after the time limit"

start 2
await_ranks 2
await_state
signal KILL
await
for record in out.parts/ranges-*.state; do
    [ -e "$record" ] && printf 'damage' | dd of="$record" bs=1 seek=100 conv=notrunc status=none
done
damaged=$(find out.parts -name 'ranges-*.state' 2>/dev/null | wc -l)
run 2
[ "$damaged" = 0 ] || [ "$(grep -c "warning: .*ranges-.*checksum is wrong" log)" = "$damaged" ] || fail "a damaged state is not named"
"$compare" reference.h5 out.h5 || fail "a damaged state: the checkpoint differs"
rm -rf out.h5 out.parts
echo "damaged state: $damaged records left out"

run 2 --set run.time_limit=1
if [ "$status" = 75 ]; then
    printf 'damage' | dd of=out.parts/fingerprint.state bs=1 seek=100 conv=notrunc status=none
    run 2
    { [ "$status" = 1 ] && grep -q "fingerprint.*--restart" log; } || fail "a damaged fingerprint: status $status"
    run 2 --set quantization.v0=10 --restart
    { [ "$status" = 0 ] && ! "$compare" reference.h5 out.h5 >/dev/null; } || fail "--restart: status $status"
fi
rm -rf out.h5 out.parts

# --- the disk fails: status 3 with one message, nothing under the final name, the state resumes
if [ "$faults" != none ]; then
    for ((round = 1; round <= (rounds + 1) / 2; round++)); do
        for kind in EIO ENOSPC short; do
            at=$((RANDOM % 120 + 1)) rank=$((RANDOM % 2))
            PRELOAD=$faults FAULT_RANK=$rank FAULT_AT=$at FAULT_KIND=$kind run 2
            what="$kind at operation $at of rank $rank"
            if [ "$status" = 0 ]; then
                "$compare" reference.h5 out.h5 || fail "$what: status 0, but the checkpoint differs"
                rm -f out.h5
            elif [ "$status" != 3 ] && [ "$status" != 1 ] || [ "$(grep -c 'error: ' log)" != 1 ]; then
                fail "$what: status $status"
            elif [ -e out.h5 ]; then
                fail "$what: something is under the final name"
            else
                echo "$what: $(grep 'error: ' log)"
            fi
            finish_run "$what"
        done
    done
fi

# --- a second run at the same time is refused; a rank that hangs is named
start 2
await_ranks 2
until [ -e out.parts/fingerprint.state ] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
signal STOP
second=0
timeout 60 mpirun -n 1 "$program" config.toml >second.log 2>&1 || second=$?
signal CONT
await
[ "$status" = 0 ] || fail "beside a second run: status $status"
{ [ "$second" = 1 ] && grep -q "another run is writing" second.log; } || { cp second.log log; fail "a second run: status $second"; }
rm -rf out.h5 out.parts

start 3 --set run.stages=3 --set run.stall_limit=2
await_ranks 3
until [ -e out.parts/fingerprint.state ] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
sleep 0.3
signal STOP 1
begin=$(date +%s)
await
seconds=$(($(date +%s) - begin))
if [ "$status" = 0 ]; then
    echo "the stalled run had ended"
else
    { grep -q "waited 2 s for rank 1, which has layers . to ., in" log && [ $seconds -lt 30 ]; } || fail "a stalled rank: status $status after $seconds s"
    echo "a stalled rank: $(grep -m1 'has waited' log)"
fi
rm -f out.h5
finish_run "after a stall"

echo "$checked resumed runs checked, $failed failed"
[ "$failed" = 0 ]
