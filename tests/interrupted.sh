# shellcheck shell=bash
# Sourced by the tests that kill and stop runs, in their own folder: one mpirun at a time in the
# background, the processes of its ranks, and nothing of Open MPI's left when one is killed.
# Before: program, compare and source are set. The job is "$program ARGUMENTS config.toml".

# shellcheck source=jobs/setup
source "$source/jobs/setup"

# interrupted_open: folder, a new one, becomes the working directory; all goes at the end.
interrupted_open() {
    setup_mpi
    folder=$(mktemp -d)
    segments=$(mktemp -d /dev/shm/fptq-test.XXXXXX)
    # What Open MPI shares between ranks and keeps of a session stays when the ranks are killed.
    export OMPI_MCA_btl_vader_backing_directory=$segments
    mkdir "$folder/session"
    export OMPI_MCA_orte_tmpdir_base=$folder/session PRTE_MCA_prte_tmpdir_base=$folder/session
    pid=
    trap interrupted_close EXIT
    cd "$folder"
    # For each rank: note the process, then be the program.
    cat >rank.sh <<'RANK'
rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-$SLURM_PROCID}}
echo $$ >"pids/$rank.new" && mv "pids/$rank.new" "pids/$rank"
[ -z "${PRELOAD:-}" ] || export LD_PRELOAD=$PRELOAD
exec "$@"
RANK
    failed=0 checked=0
}

interrupted_close() {
    # Ranks first: without mpirun they would end by themselves, but later than their folder.
    if [ -n "$pid" ]; then
        cat pids/* 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        kill -9 "$pid" 2>/dev/null || true
    fi
    cd /
    rm -rf "$folder" "$segments"
}

fail() {
    echo "FAIL: $*"
    sed 's/^/    /' log | grep -v -e '---' -e '^ *$' | head -12 || true
    failed=$((failed + 1))
}

# start RANKS [ARGUMENT ...]: in the background; pid is mpirun's.
start() {
    local ranks=$1
    shift
    rm -rf pids
    mkdir pids
    echo "$*" >arguments
    : >log
    mpirun -n "$ranks" sh rank.sh "$program" "$@" config.toml >log 2>&1 &
    pid=$!
}

# signal SIGNAL [RANK]: to all ranks, or one.
signal() {
    local pids
    mapfile -t pids < <(if [ -n "${2:-}" ]; then cat "pids/$2"; else cat pids/*; fi 2>/dev/null)
    [ "${#pids[@]}" = 0 ] || kill "-$1" "${pids[@]}" 2>/dev/null || true
}

# Whether a rank's process is there; one that nobody has waited for yet is not.
ranks_live() {
    local file rank stat
    for file in pids/[0-9]*; do
        { read -r rank <"$file" && read -r stat <"/proc/$rank/stat"; } 2>/dev/null || continue
        stat=${stat##*) }
        [ "${stat%% *}" = Z ] || return 0
    done
    return 1
}

# Wait for the job's end, of its ranks too: status. Open MPI's launcher with PMIx 4.2 (Debian 12)
# sometimes hangs, or crashes, at its own end when a rank was killed: it is counted, and killed.
launcher_hangs=0
await() {
    local tries=0
    while kill -0 "$pid" 2>/dev/null && [ $tries -le 1200 ]; do
        if ranks_live; then tries=0; else tries=$((tries + 1)); fi
        sleep 0.05
    done
    if [ $tries -gt 1200 ]; then
        kill -9 "$pid" 2>/dev/null || true
        launcher_hangs=$((launcher_hangs + 1))
        echo "the launcher hangs 60 s after its ranks have ended"
    fi
    status=0
    { wait "$pid" || status=$?; } 2>/dev/null
    tries=0
    while ranks_live && [ $((tries += 1)) -le 1000 ]; do sleep 0.02; done
    [ $tries -le 1000 ] || fail "a rank lives on 20 s after its job"
    pid=
    rm -rf "${segments:?}"/* session/*
}

run() {
    start "$@"
    await
}

# run_timed RANKS [ARGUMENT ...]: also `milliseconds`.
run_timed() {
    local begin
    begin=$(date +%s%N)
    run "$@"
    milliseconds=$((($(date +%s%N) - begin) / 1000000))
}

# await_that CONDITION ...: until the command succeeds or the job has ended, at most 60 s.
await_that() {
    local tries=0
    until "$@" || ! kill -0 "$pid" 2>/dev/null || [ $((tries += 1)) -gt 6000 ]; do sleep 0.01; done
}

ranks_are_there() { [ "$(find pids -name '[0-9]*' ! -name '*.new' | wc -l)" -ge "$1" ]; }
there_is() { compgen -G "$1" >/dev/null; }

await_ranks() { await_that ranks_are_there "$1"; }
# Until the job has saved ranges.
await_state() { await_that there_is 'out.parts/ranges-*.state'; }

# shape: random stages for $1 ranks, a random layout, waves (unless may_wave=0: their hidden states take
# room on the disk): what the result does not depend on.
may_wave=1
shape=()
choose_shape() {
    shape=()
    if [ $((RANDOM % 2)) = 0 ]; then shape+=(--set "run.stages=$((RANDOM % $1 + 1))"); fi
    if [ $((RANDOM % 4)) = 0 ]; then shape+=(--set output.layout=sharded); fi
    if [ $may_wave = 1 ] && [ $((RANDOM % 3)) = 0 ]; then choose_waves; fi
}
# Some of the layers at once, the hidden states in a scratch file.
choose_waves() {
    shape+=(--set "run.layers_held=$((RANDOM % 2 + 1))" --set "run.wave=$((RANDOM % (samples / 4 + 1) + 1))" --set run.spill=always)
}

# A file under the final name, if there is one, is complete.
check_final() {
    if [ -e out.h5 ]; then "$compare" reference.h5 out.h5 || fail "$1: a wrong file under the final name"; fi
}

# check_finished WHAT: the job that has just ended is done; the checkpoint is the reference's,
# nothing is left.
check_finished() {
    checked=$((checked + 1))
    if [ "$status" != 0 ]; then
        fail "$1: status $status"
    elif ! "$compare" reference.h5 out.h5; then
        fail "$1: the resumed checkpoint differs"
    elif [ -e out.h5.tmp ] || there_is 'out.parts/*.state*' || there_is 'out.parts/*.tmp' ||
        { [ -e out.parts ] && ! grep -q "output.layout=sharded" arguments; }; then
        fail "$1: files are left: $(ls out.parts)"
    fi
    rm -rf out.h5 out.parts out.h5.tmp
}

# finish_run WHAT: with any number of ranks.
finish_run() {
    local ranks=$((RANDOM % 4 + 1))
    choose_shape $ranks
    run $ranks "${shape[@]}"
    check_finished "$1, resumed with $ranks ranks"
}

# Make reference.h5 in a run of 2 ranks that takes `milliseconds`, 2500 at least: with more samples in
# config.toml on a fast machine, so that a run can be caught in the act.
make_reference() {
    while true; do
        run_timed 2
        [ "$status" = 0 ] || { cat log; exit 1; }
        mv out.h5 reference.h5
        [ $milliseconds -lt 2500 ] && [ "$samples" -lt 20000 ] || break
        samples=$((samples * 4000 / milliseconds + 1))
        sed -i "s/^samples = .*/samples = $samples/" config.toml
    done
    echo "an uninterrupted run takes $milliseconds ms with $samples samples"
}
