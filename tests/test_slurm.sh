#!/usr/bin/env bash
# Jobs under a real SLURM, a controller and a node of our own on the loopback: they finish, go on after
# their time limit by themselves, and leave a state when they are cancelled; with srun and with mpirun.
#   test_slurm.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER
# FPTQ_TEST_LONG=1: also with SLURM's own time limits and signals, which take minutes.
set -euo pipefail
program=$(realpath "$1") compare=$(realpath "$2") source=$(realpath "$3")
PATH=$PATH:/usr/sbin:/sbin
for command in munged slurmctld slurmd sbatch srun; do
    if ! command -v $command >/dev/null; then
        echo "skipped: SLURM is not installed, no $command (Debian: slurm-wlm munge)"
        exit 77
    fi
done
if ! mpirun --version 2>/dev/null | grep -q "Open MPI"; then
    echo "skipped: srun is asked for PMIx, which Open MPI's ranks speak"
    exit 77
fi
# shellcheck source=tests/interrupted.sh
source "$source/tests/interrupted.sh"
interrupted_open
cluster=$folder/cluster host=$(hostname -s) user=$(id -un)
mkdir -p "$cluster/state" "$cluster/spool"
export SLURM_CONF=$cluster/slurm.conf

stop_daemon() {
    local number tries=0
    number=$(cat "$cluster/$1.pid" 2>/dev/null) || return 0
    kill "$number" 2>/dev/null || return 0
    while kill -0 "$number" 2>/dev/null; do
        [ $((tries += 1)) -lt 150 ] || kill -9 "$number" 2>/dev/null || true
        sleep 0.1
    done
}

close_cluster() {
    scancel --user="$user" 2>/dev/null || true
    local tries=0
    until [ -z "$(squeue -h 2>/dev/null)" ] || [ $((tries += 1)) -gt 100 ]; do sleep 0.1; done
    stop_daemon slurmd
    stop_daemon slurmctld
    stop_daemon munged
    interrupted_close
}
trap close_cluster EXIT

free_port() {
    local port
    while true; do
        port=$((RANDOM % 20000 + 10000))
        (echo >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo $port
}

start_cluster() {
    head -c 128 /dev/urandom >"$cluster/munge.key"
    chmod 400 "$cluster/munge.key"
    cat >"$SLURM_CONF" <<CONF
ClusterName=fptqtest
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$cluster/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=64 CoresPerSocket=64 RealMemory=65536
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    local tries=0
    munged --force --key-file="$cluster/munge.key" --socket="$cluster/munge.sock" \
        --pid-file="$cluster/munged.pid" --log-file="$cluster/munged.log" --seed-file="$cluster/munge.seed" &&
        slurmctld -f "$SLURM_CONF" && slurmd -f "$SLURM_CONF" -N "$host" || return 1
    until sinfo -h -o %T 2>/dev/null | grep -q idle; do
        [ $((tries += 1)) -lt 100 ] || return 1
        sleep 0.1
    done
}
if ! start_cluster >start.log 2>&1; then
    echo "skipped: SLURM does not start here: $(cat start.log "$cluster"/*.log 2>/dev/null | grep -i -m1 -e error -e fatal)"
    exit 77
fi
srun --mpi=list 2>&1 | grep -q pmix || {
    echo "skipped: this SLURM's srun has no pmix"
    exit 77
}

cat >config.toml <<TOML
[model]
path = "$source/tests/demo/model"
[calibration]
data = "random-tokens"
samples = 200
sequence_length = 256
chunk_tokens = 64
[output]
checkpoint = "out.h5"
compression = "zstd"
[run]
threads = 1
TOML
samples=200
make_reference

# What the jobs call instead of the program: rounds that are shorter than SLURM's shortest limit, a
# minute, and more windows in them.
cat >program <<PROGRAM
#!/bin/sh
[ "\${SLURM_PROCID:-0}" != 0 ] || echo "end \${SLURM_JOB_END_TIME:-unknown}" >>ends
if [ -n "\${ROUND_SECONDS:-}" ] && [ "\${SLURM_RESTART_COUNT:-0}" -lt 2 ]; then
    export SLURM_JOB_END_TIME=\$((\$(date +%s) + ROUND_SECONDS))
fi
exec "$program" "\$@"
PROGRAM
chmod +x program
# The users' own script, on the demo: job-srun, job-mpirun.
sed -e "s#build/fptq-pipeline#$folder/program#" -e "s#configs/llama-7b.toml#config.toml#" \
    -e "s#jobs/resumable#$source/jobs/resumable#" "$source/jobs/llama-7b.sbatch" >job-srun
sed 's/srun --mpi=pmix/mpirun/' job-srun >job-mpirun
{ grep -q "$folder/program config.toml" job-srun && grep -q "resumable mpirun" job-mpirun; } ||
    { echo "FAIL: jobs/llama-7b.sbatch has changed: $(cat job-srun)"; exit 1; }

# submit SCRIPT [OPTION ...]: job.
submit() {
    local script=$1
    shift
    rm -f log ends
    job=$(sbatch --parsable --output=log "$@" "$script")
}

# field NAME: of the job, as SLURM has it.
field() { scontrol show job "$job" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$1=//p" | head -1; }

# Until the job is over: status, rounds. A requeued job is not left waiting two minutes, but three
# seconds: within the second the node takes it for the one that it has just ended.
await_job() {
    local state pending=0
    while true; do
        state=$(field JobState)
        case $state in
            PENDING)
                [ "$(field Restarts)" = 0 ] || [ $((pending += 1)) -le 10 ] || scontrol update "jobid=$job" StartTime=now 2>/dev/null || true
                ;;
            COMPLETED | CANCELLED | FAILED | TIMEOUT | NODE_FAIL | OUT_OF_MEMORY | BOOT_FAIL | DEADLINE)
                break
                ;;
            *)
                pending=0
                [ $# = 0 ] || "$@"
                ;;
        esac
        sleep 0.3
    done
    status=$(field ExitCode)
    status=${status%%:*} rounds=$(($(field Restarts) + 1))
    if [ "$state" = COMPLETED ]; then
        status=0
    elif [ "$state" != CANCELLED ]; then
        echo "job $job is $state:"
        grep -h "JobId=$job\|job $job\|error" "$cluster"/slurm*.log | tail -20
    fi
    echo "$*" >arguments
}

# As SLURM does at #SBATCH --signal=B:USR1@SECONDS, once a round for two rounds.
signalled=-1
send_signal() {
    local round
    round=$(field Restarts)
    if [ "$round" -lt 2 ] && [ "$round" != "$signalled" ] && there_is "out.parts/ranges-000$((round + 1))-*.state"; then
        signalled=$round
        scancel --signal=USR1 --batch "$job"
    fi
}

begin=$SECONDS
submit job-srun --ntasks-per-node=4 --cpus-per-task=1
await_job
check_finished "4 tasks"
end=$(sed -n 's/^end //p' ends | head -1)
[ -z "${end//[0-9]/}" ] && [ "${end:-0}" -gt "$(date +%s)" ] || fail "the program is not told when its job ends: $end"
echo "4 tasks: $((SECONDS - begin)) s"

# take_samples COUNT: so many windows from now on, and their reference, made in `milliseconds`.
take_samples() {
    sed -i "s/^samples = .*/samples = $1/" config.toml
    run_timed 4
    [ "$status" = 0 ] && mv out.h5 reference.h5 || fail "the reference: status $status"
}

# --- longer than its time: three rounds, by itself; the first two, of 3 s, are too short for windows that
# take 15 s, what it takes to start left out
mv reference.h5 reference-short.h5
short=$milliseconds longer=$((samples * 6))
take_samples $longer
work=$((milliseconds > short + 1000 ? milliseconds - short : 1000))
if [ $work -lt 15000 ]; then
    longer=$((longer * 15000 / work))
    take_samples $longer
fi
begin=$SECONDS
ROUND_SECONDS=3 submit job-srun --ntasks-per-node=4 --cpus-per-task=1
await_job
cp log rounds.log
[ "$rounds" = 3 ] || fail "out of time: $rounds rounds"
check_finished "out of time, $rounds rounds"
echo "srun, out of time: $rounds rounds in $((SECONDS - begin)) s: $(grep 'going on' rounds.log | tr '\n' ';')"

begin=$SECONDS
submit job-mpirun --ntasks-per-node=4 --cpus-per-task=1
await_job send_signal
cp log rounds.log
[ "$rounds" = 3 ] && [ "$(grep -c 'stopped by SIGUSR1' rounds.log)" = 2 ] || fail "mpirun, SIGUSR1: $rounds rounds"
check_finished "mpirun, SIGUSR1, $rounds rounds"
echo "mpirun, SIGUSR1: $rounds rounds in $((SECONDS - begin)) s: $(grep 'going on' rounds.log | tr '\n' ';')"

# --- cancelled: not requeued, a state, nothing under the final name
for launcher in srun mpirun; do
    submit job-$launcher --ntasks-per-node=4 --cpus-per-task=1
    until there_is 'out.parts/ranges-*.state' || [ "$(field JobState)" = COMPLETED ]; do sleep 0.1; done
    scancel "$job"
    await_job
    while pgrep -f "$folder/program|$program config.toml" >/dev/null; do sleep 0.2; done # ranks that still save
    if [ "$(field JobState)" = COMPLETED ]; then
        echo "$launcher, scancel: the job had ended"
        check_finished "$launcher, cancelled too late"
        continue
    fi
    [ "$(field JobState)" = CANCELLED ] || fail "$launcher, cancelled: the job is $(field JobState)"
    { [ ! -e out.h5 ] && [ -e out.parts/fingerprint.state ]; } || fail "$launcher, cancelled: $(echo out*)"
    run 2
    taken=$(grep 'going on' log || true)
    [ -n "$taken" ] || fail "$launcher, cancelled: no state is taken up"
    check_finished "$launcher, after scancel"
    echo "$launcher, scancel: $taken"
done

# --- 64 tasks
mv reference-short.h5 reference.h5
sed -i "s/^samples = .*/samples = $samples/" config.toml
begin=$SECONDS
submit job-srun --ntasks-per-node=64 --cpus-per-task=1
await_job
ranks=$(grep -o '64 rank(s).*' log || true)
[ -n "$ranks" ] || fail "64 tasks: not 64 ranks"
check_finished "64 tasks"
echo "64 tasks: $((SECONDS - begin)) s: $ranks"

# --- SLURM's own limits: the signal comes 20 to 80 s before the end, the limit is the least there is;
# or one that says nothing comes, and the program goes by the job's end
if [ "${FPTQ_TEST_LONG:-0}" = 1 ]; then
    sed -i "s/^samples = .*/samples = $longer/" config.toml
    least=
    for _ in 1 2 3; do # the machine may be busy with other things now and not later
        run_timed 4
        [ "${least:-$milliseconds}" -lt $milliseconds ] || least=$milliseconds
        rm -rf out.h5
    done
    take_samples $((longer * 200 * 1000 / least))
    for launcher in srun mpirun; do
        for option in --signal=B:USR1@20 --signal=B:CONT@10; do
            begin=$SECONDS
            submit job-$launcher --ntasks-per-node=4 --cpus-per-task=1 --time=1 $option
            await_job
            cp log rounds.log
            check_finished "$launcher, a limit of a minute, $option, $rounds rounds"
            [ "$rounds" -ge 3 ] || fail "a limit of a minute: $rounds rounds"
            echo "$launcher, a limit of a minute, $option: $rounds rounds in $((SECONDS - begin)) s"
        done
    done
fi
echo "$checked finished jobs checked, $failed failed"
[ $failed = 0 ]
