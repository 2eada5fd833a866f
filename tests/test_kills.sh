#!/usr/bin/env bash
# The kill matrix: runs are killed (SIGKILL) at random moments of every phase, one rank, all ranks or
# the launcher with them, and taken up by the same command, sometimes killed again, with any number of
# ranks. Every checkpoint is that of the uninterrupted run.
#   test_kills.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER FAULTS_LIBRARY [ROUNDS [SEED]]
# FAULTS_LIBRARY: tests/preload_faults.c, or "none". ROUNDS: 10.
# FPTQ_TEST_KILLS_MODEL: another model than the demo; FPTQ_TEST_KILLS_SAMPLES: windows of 256 tokens.
set -euo pipefail
program=$(realpath "$1") compare=$(realpath "$2") source=$(realpath "$3") faults=$4
rounds=${5:-10} seed=${6:-$((($(date +%s%N) / 1000) % 32768))}
[ "$faults" = none ] || faults=$(realpath "$faults")
# shellcheck source=tests/interrupted.sh
source "$source/tests/interrupted.sh"
interrupted_open
RANDOM=$seed
echo "seed $seed"
samples=${FPTQ_TEST_KILLS_SAMPLES:-60}

cat >config.toml <<TOML
[model]
path = "${FPTQ_TEST_KILLS_MODEL:-$source/tests/demo/model}"
[calibration]
data = "random-tokens"
samples = $samples
sequence_length = 256
chunk_tokens = 64
[quantization]
group_size = 64
[output]
checkpoint = "out.h5"
compression = "zstd"
[run]
threads = 1
TOML
make_reference

# Where a killed run was, as the disk has it.
phase_on_disk() {
    if [ -e out.h5 ]; then
        echo complete
    elif [ -e out.h5.tmp ]; then
        echo merging
    elif there_is 'out.parts/layer-*.tmp' || there_is 'out.parts/root*.tmp'; then
        echo writing
    elif there_is 'out.parts/layer-*.h5'; then
        echo quantizing
    elif there_is 'out.parts/ranges-*.state'; then
        echo calibrating
    else
        echo starting
    fi
}

random_pause() {
    local delay=$((RANDOM * 32768 + RANDOM))
    delay=$((delay % ($1 + 1)))
    sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
}

# kill_at TRIGGER RANKS VICTIM: start a run and kill it there; VICTIM is a rank, "all" or "launcher".
kill_at() {
    local trigger=$1 ranks=$2 victim=$3
    case $trigger in
        operation)
            local at=$((RANDOM % 3 == 0 ? RANDOM % 400 + 1 : RANDOM % 60 + 1))
            PRELOAD=$faults FAULT_RANK=$victim FAULT_AT=$at FAULT_KIND=kill run "$ranks" "${shape[@]}"
            return
            ;;
        reduction) # 1: before the rank takes part, 2: after that
            PRELOAD=$faults FAULT_RANK=$victim FAULT_AT=$((RANDOM % 2 + 1)) FAULT_KIND=reduction \
                run "$ranks" "${shape[@]}"
            return
            ;;
    esac
    start "$ranks" "${shape[@]}"
    await_ranks "$ranks"
    case $trigger in
        start) random_pause 400 ;;
        any) random_pause $milliseconds ;;
        calibration)
            await_state
            random_pause $((milliseconds / 2))
            ;;
        quantization)
            await_that there_is 'out.parts/layer-*'
            random_pause $((milliseconds / 8))
            ;;
        merging)
            await_that there_is 'out.parts/run.h5'
            random_pause $((RANDOM % 2 * milliseconds / 20))
            ;;
    esac
    # How long ago was a rank's state saved last? So much work is lost at most.
    local now file age
    now=$(date +%s%N)
    if ! there_is 'out.parts/layer-*'; then
        for file in out.parts/ranges-*.state; do
            age=$(stat -c %.9Y "$file" 2>/dev/null | tr -d .) || continue
            age=$(((now - age) / 1000000))
            ages=$((ages + 1)) ages_sum=$((ages_sum + age))
            [ $age -le $age_most ] || age_most=$age
        done
    fi
    case $victim in
        all) signal KILL ;;
        launcher)
            kill -9 "$pid" 2>/dev/null || true
            signal KILL
            ;;
        *) signal KILL "$victim" ;;
    esac
    await
}

# What a run says it goes on with: windows and layers done, or nothing.
taken_up() {
    sed -n 's/^going on with an interrupted run: \([0-9]*\) of .* are done, \([0-9]*\) of.*/\1 \2/p' log
}

# finished: layers that are on the disk, whole.
count_finished() {
    local part
    finished=0
    for part in out.parts/layer-*.h5; do
        [ ! -e "${part%.h5}.state" ] || finished=$((finished + 1))
    done
}

triggers=(start any any calibration calibration quantization merging)
[ "$faults" = none ] || triggers+=(operation operation reduction)
declare -A tally=([starting]=0 [calibrating]=0 [reduction]=0 [quantizing]=0 [writing]=0 [merging]=0 [complete]=0)
declare -A victims=([one]=0 [all]=0 [launcher]=0)
ages=0 ages_sum=0 age_most=0
for ((round = 1; round <= rounds; round++)); do
    what="round $round:"
    windows=0
    for ((kills = RANDOM % 3 + 1; kills > 0; kills--)); do
        ranks=4 trigger=${triggers[RANDOM % ${#triggers[@]}]}
        [ $((RANDOM % 3)) != 0 ] || ranks=$((RANDOM % 4 + 1))
        victim=$((RANDOM % ranks)) kind=one
        case $trigger in
            operation | reduction) ;;
            *) case $((RANDOM % 6)) in
                0 | 1) victim=all kind=all ;;
                2) victim=launcher kind=launcher ;;
            esac ;;
        esac
        choose_shape $ranks
        count_finished
        kill_at "$trigger" "$ranks" "$victim"
        what+=" $victim of $ranks at $trigger"
        # Nothing that was saved is computed again.
        read -r windows_now layers_now < <(taken_up || true) || true
        if [ -n "${windows_now:-}" ]; then
            [ "$windows_now" -ge "$windows" ] && [ "$layers_now" = "$finished" ] ||
                fail "$what: $windows_now windows and $layers_now layers are done, of $windows and $finished"
            windows=$windows_now
        fi
        if [ "$status" = 0 ]; then
            phase=complete
        else
            phase=$(phase_on_disk)
            [ "$phase" = complete ] || victims[$kind]=$((victims[$kind] + 1))
            if [ "$trigger" = reduction ] && [ "$phase" = calibrating ]; then phase=reduction; fi
        fi
        what+=" ($phase);"
        tally[$phase]=$((tally[$phase] + 1))
        check_final "$what"
        [ $phase != complete ] || break
    done
    finish_run "$what"
    echo "${SECONDS} s: $what $(taken_up | sed 's/\(.*\) \(.*\)/\1 windows and \2 layers were done,/')" \
        "$([ $failed = 0 ] && echo same checkpoint || echo "$failed FAILED so far")"
done
printf 'killed while'
for phase in starting calibrating reduction quantizing writing merging; do printf ' %s: %d,' $phase "${tally[$phase]}"; done
echo " ended before: ${tally[complete]}; one rank ${victims[one]}, all ${victims[all]}, all with the launcher ${victims[launcher]}"
[ $ages = 0 ] || echo "age of the state of $ages ranks when killed: $((ages_sum / ages)) ms on average, $age_most ms at most"
[ $launcher_hangs = 0 ] || echo "the launcher hung $launcher_hangs times after a kill"
echo "$checked resumed runs checked, $failed failed"
[ $failed = 0 ]
