#!/usr/bin/env bash
# GPTQ through the pipeline: the same checkpoint for any ranks, replicas, threads and chunks, and after
# runs that were killed or stopped while they summed Hessians, with other ranks; in f32 on every path.
#   test_gptq.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER
set -eu
program=$(realpath "$1") compare=$(realpath "$2") source=$(realpath "$3")
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
cd "$folder"

# config NAME MODEL SAMPLES LENGTH [LINE OF quantization ...]
config() {
    cat >"$1.toml" <<TOML
[model]
path = "$2"
[calibration]
data = "random-tokens"
samples = $3
sequence_length = $4
chunk_tokens = 64
[quantization]
group_size = 64
$(printf '%s\n' "${@:5}")
[output]
checkpoint = "out.h5"
compression = "zstd"
[run]
threads = 1
TOML
}

# run RANKS CONFIG [SET ...]: its exit status
run() {
    local ranks=$1 config=$2 arguments=() status=0
    shift 2
    for setting in "$@"; do arguments+=(--set "$setting"); done
    mpirun -n "$ranks" "$program" "${arguments[@]}" "$config.toml" >log 2>&1 || status=$?
    return $status
}

fail() {
    echo "FAIL: $*"
    cat log
    exit 1
}

# same CONFIG RANKS [SET ...]: the checkpoint is CONFIG's reference
same() {
    run "$2" "$1" "${@:3}" || fail "$*: status $?"
    "$compare" "$1.h5" out.h5 || fail "$*: the checkpoint differs"
    rm -rf out.h5 out.parts
    checked=$((checked + 1))
    echo "same: $*"
}

demo=$source/tests/demo/model
config gptq "$demo" 7 200 'method = "gptq"'
config ordered "$demo" 7 200 'method = "gptq"' 'act_order = true' 'symmetric = true'
config fptq "$demo" 7 200 'rounding = "gptq"' 'v0 = 5'
config rotated "$demo" 7 200 'rounding = "gptq"' 'rotation = "hadamard"'
config bloom "$source/tests/golden/bloom12/model" 7 60 'rounding = "gptq"' 'policy = "equalized"'
for name in gptq ordered fptq rotated bloom; do
    run 1 $name || fail "$name: status $?"
    "$program" verify -q out.h5 >/dev/null
    mv out.h5 $name.h5
    same $name 2 run.threads=2
    same $name 3 run.stages=1 run.replicas=3 calibration.chunk_tokens=50
done
same gptq 4 run.stages=2 run.replicas=2 run.threads=2
same gptq 8
! "$compare" gptq.h5 ordered.h5 >/dev/null || fail "act_order changes nothing"
! "$compare" gptq.h5 fptq.h5 >/dev/null || fail "equalization changes nothing"

run 1 rotated run.precision=f32 run.isa=portable || fail "f32: status $?"
mv out.h5 f32.h5
cp rotated.toml f32.toml
same f32 2 run.precision=f32

# --- a damping that does not do is raised, and said
config damping "$demo" 1 20 'method = "gptq"' 'damping = 0.0'
run 2 damping || fail "no damping: status $?"
grep -q "layer 0, mlp_hidden: GPTQ's damping had to be raised to 1e-05" log || fail "damping is not reported"
rm -rf out.h5

# --- killed and stopped: long enough to be caught while it calibrates
samples=60 milliseconds=0
while [ $milliseconds -lt 2500 ] && [ "$samples" -lt 20000 ]; do
    samples=$((milliseconds ? samples * 4000 / milliseconds + 1 : samples))
    config long "$demo" "$samples" 256 'method = "gptq"'
    rm -f long.h5
    begin=$(date +%s%N)
    run 2 long || fail "long: status $?"
    milliseconds=$((($(date +%s%N) - begin) / 1000000))
    mv out.h5 long.h5
done
echo "an uninterrupted run takes $milliseconds ms with $samples samples"
# For each rank: note the process, then be the program.
cat >rank.sh <<'SCRIPT'
echo $$ >"pids/${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"
exec "$@"
SCRIPT
kept=0
for round in 1 2 3; do
    stops=""
    for ((i = 0; i < 3; i++)); do
        ranks=$((RANDOM % 4 + 1)) delay=$((RANDOM % milliseconds + 300))
        rm -rf pids
        mkdir pids
        waves=()
        [ $((RANDOM % 2)) = 0 ] || waves=(--set run.layers_held=2 --set run.wave=9 --set run.spill=always)
        mpirun -n $ranks sh rank.sh "$program" --set run.stages=$((RANDOM % ranks + 1)) "${waves[@]}" \
            long.toml >log 2>&1 &
        pid=$!
        sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
        mapfile -t pids < <(cat pids/* 2>/dev/null)
        kill "-$([ $((RANDOM % 2)) = 0 ] && echo USR1 || echo KILL)" "${pids[@]}" 2>/dev/null || true
        status=0
        wait $pid 2>/dev/null || status=$?
        stops+=" $ranks ranks${waves[*]:+ in waves} after $delay ms: $status;"
        [ $status != 0 ] || break
        kept=$((kept + $(find out.parts -name 'hessian-*.state' 2>/dev/null | wc -l)))
    done
    ranks=$((RANDOM % 4 + 1))
    if [ -e out.h5 ]; then
        "$compare" long.h5 out.h5 || fail "$stops the checkpoint differs"
    fi
    rm -f out.h5
    same long $ranks
    [ ! -e out.parts ] || fail "files are left"
    echo "round $round:$stops then $ranks"
done
[ $kept -gt 0 ] || fail "no Hessian was ever saved"
echo "$checked checkpoints are the same; $kept records of Hessians were taken up"
