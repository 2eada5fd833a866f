#!/usr/bin/env bash
# Nothing is lost: runs that are signalled, out of time or out of disk are taken up by the same command,
# with another number of ranks too, and give the checkpoint of the uninterrupted run. (Kills:
# test_kills.sh.)
#   test_resume.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER FAULTS_LIBRARY [ROUNDS [SEED]]
# FAULTS_LIBRARY: tests/preload_faults.c, or "none". ROUNDS of each kind of fault of the disk: 5.
set -euo pipefail
program=$(realpath "$1") compare=$(realpath "$2") source=$(realpath "$3") faults=$4
rounds=${5:-5} seed=${6:-$((($(date +%s%N) / 1000) % 32768))}
[ "$faults" = none ] || faults=$(realpath "$faults")
# shellcheck source=tests/interrupted.sh
source "$source/tests/interrupted.sh"
interrupted_open
RANDOM=$seed
echo "seed $seed"
samples=60

cat >config.toml <<TOML
[model]
path = "$source/tests/demo/model"
[calibration]
data = "random-tokens"
samples = $samples
sequence_length = 256
chunk_tokens = 64
[quantization]
group_size = 64
static_scale = "least-squares"
rotation = "hadamard"
[output]
checkpoint = "out.h5"
compression = "zstd"
[run]
threads = 1
TOML
make_reference

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

# --- signals while rank 0 works alone: sampling, assembling
awk 'BEGIN { for (i = 0; i < 400000; i++) print "{\"text\": \"line " i " of many that are read and shuffled\"}" }' >text.jsonl
start 2 --set 'calibration.data=["text.jsonl"]' --set calibration.samples=20000
await_that grep -q "5 layers" log
sleep 0.3
begin=$SECONDS
signal TERM
await
{ [ "$status" = 75 ] && [ ! -e out.parts/fingerprint.state ] && [ $((SECONDS - begin)) -lt 10 ]; } ||
    fail "SIGTERM while sampling: status $status after $((SECONDS - begin)) s"
rm -rf text.jsonl out.h5 out.parts
if [ "$faults" != none ]; then
    PRELOAD=$faults FAULT_RANK=0 FAULT_PATH=out.h5.tmp FAULT_AT=50 FAULT_KIND=TERM run 2
    { [ "$status" = 75 ] && [ ! -e out.h5.tmp ]; } || fail "SIGTERM while assembling: status $status"
    check_final "SIGTERM while assembling"
    run 2
    grep -q "5 of 5 layers" log || fail "SIGTERM while assembling: layers are lost"
    check_finished "after SIGTERM while assembling"
    echo "while sampling and assembling: status 75"
fi

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
    for ((round = 1; round <= rounds; round++)); do
        for kind in EIO ENOSPC short; do
            at=$((RANDOM % 120 + 1)) rank=$((RANDOM % 2))
            shape=()
            if [ $((RANDOM % 2)) = 0 ]; then choose_waves; fi
            PRELOAD=$faults FAULT_RANK=$rank FAULT_AT=$at FAULT_KIND=$kind run 2 "${shape[@]}"
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

# --- a small disk that is too full from the start, or fills up while the run calibrates
# leave KIBIBYTES: take all other room of it.
leave() {
    local free
    free=$(df --output=avail -k . | tail -1)
    head -c $(((free - $1) * 1024)) /dev/zero >filling 2>/dev/null || true
}
mkdir small
if mount -t tmpfs -o size=64m fptq-small small 2>/dev/null; then
    trap 'umount --lazy "$folder/small"; interrupted_close' EXIT
    cd small
    cp ../config.toml ../rank.sh .
    may_wave=0
    ln -s ../reference.h5 ../log .
    leave 500
    run 2
    { [ "$status" = 1 ] && grep -q "the disk is too full" log; } || fail "a full disk: status $status"
    rm filling
    for free in 60 300 1700; do # too little for the first layer, for all, for merging
        start 2
        await_ranks 2
        await_state
        leave $free
        await
        if [ "$status" = 0 ]; then
            echo "the disk was full too late"
        else
            { [ "$status" = 3 ] && [ "$(grep -c 'error: .*No space left' log)" = 1 ] && [ ! -e out.h5 ]; } ||
                fail "$free KiB left: status $status"
            echo "$free KiB left: $(grep 'error: ' log)"
        fi
        rm -f filling out.h5
        finish_run "$free KiB left"
    done
    cd ..
    may_wave=1
    umount --lazy small
    trap interrupted_close EXIT
else
    echo "no small file system can be mounted here: left out"
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
{ [ "$second" = 1 ] && grep -q "another run is writing it" second.log; } || { cp second.log log; fail "a second run: status $second"; }
rm -rf out.h5 out.parts

# stall RANKS VICTIM MESSAGE ARGUMENT ...: VICTIM stops for good when calibration has begun.
stall() {
    local ranks=$1 victim=$2 message=$3 begin seconds
    shift 3
    start "$ranks" --set run.stall_limit=2 "$@"
    await_ranks "$ranks"
    await_that [ -e out.parts/fingerprint.state ]
    sleep 0.3
    signal STOP "$victim"
    begin=$SECONDS
    await
    seconds=$((SECONDS - begin))
    if [ "$status" = 0 ]; then
        echo "the stalled run had ended"
    else
        { grep -q "$message" log && [ $seconds -lt 30 ]; } || fail "a stalled rank: status $status after $seconds s"
        echo "a stalled rank: $(grep -m1 'has waited' log)"
    fi
    rm -f out.h5
    finish_run "after a stall"
}
stall 3 1 "waited 2 s for rank 1, which has layers . to ., in" --set run.stages=3
stall 2 0 "rank 1 has waited 3 s for rank 0, which has layers 0 to 4, in" --set run.stages=1 --set run.replicas=2
stall 3 2 "rank 0 has waited 2 s for rank 2 in" --set run.stages=2 --set run.replicas=1
# Ranks that have no part wait for as long as it takes.
run 3 --set run.stages=1 --set run.replicas=1 --set run.stall_limit=3 --set calibration.samples=$((samples * 2))
[ "$status" = 0 ] || fail "ranks without work: status $status"
rm -rf out.h5 out.parts

echo "$checked resumed runs checked, $failed failed"
[ "$failed" = 0 ]
