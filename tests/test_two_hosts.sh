#!/usr/bin/env bash
# Two hosts, here network namespaces, and a third that starts the job: a host dies, a link is cut. The
# job ends within 30 s with a message that names the host, and the resumed run is right.
#   test_two_hosts.sh FPTQ_PIPELINE COMPARE_TOOL SOURCE_FOLDER
set -euo pipefail
program=$(realpath "$1") compare=$(realpath "$2") source=$(realpath "$3")
PATH=$PATH:/usr/sbin:/sbin
skip() {
    echo "skipped: $*"
    exit 77
}
for command in ip unshare; do
    command -v $command >/dev/null || skip "there is no $command (Debian: iproute2 util-linux)"
done
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
mpirun --version 2>/dev/null | grep -q "Open MPI" || skip "hosts are named as Open MPI's mpirun wants it"
# shellcheck source=tests/interrupted.sh
source "$source/tests/interrupted.sh"
interrupted_open
net=fptq$$

close_hosts() {
    local host
    for host in 1 2 0; do
        ip netns pids $net-$host 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns delete $net-$host 2>/dev/null || true
    done
    interrupted_close
}
trap close_hosts EXIT

# Host 0 has a bridge, host 1 and host 2 hang on it by links that can be cut there.
make_hosts() {
    local host
    for host in 0 1 2; do
        ip netns add $net-$host && ip -n $net-$host link set lo up || return 1
    done
    ip -n $net-0 link add bridge type bridge && ip -n $net-0 link set bridge up &&
        ip -n $net-0 address add 10.77.0.100/24 dev bridge || return 1
    for host in 1 2; do
        ip -n $net-0 link add port$host type veth peer name wire netns $net-$host &&
            ip -n $net-0 link set port$host master bridge && ip -n $net-0 link set port$host up &&
            ip -n $net-$host address add 10.77.0.$host/24 dev wire && ip -n $net-$host link set wire up || return 1
    done
}
make_hosts 2>hosts.log || skip "no network namespaces here: $(head -1 hosts.log)"
# In place of ssh: agent ADDRESS COMMAND ...
cat >agent <<AGENT
#!/bin/bash
host=\${1##*.}
shift
exec ip netns exec $net-\$host unshare --uts -- bash -c "hostname host\$host; \$*"
AGENT
chmod +x agent

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
[run]
threads = 1
TOML
samples=200
make_reference

# Two ranks on each host, with the settings that jobs/resumable gives users.
start_on_hosts() {
    rm -rf pids
    mkdir pids
    echo "$*" >arguments
    ip netns exec $net-0 "$source/jobs/resumable" mpirun --host 10.77.0.1:2,10.77.0.2:2 \
        --mca plm rsh --mca plm_rsh_agent "$folder/agent" --mca oob_tcp_if_include 10.77.0.0/24 \
        --mca pml ob1 --mca btl self,vader,tcp --mca btl_tcp_if_include 10.77.0.0/24 \
        sh rank.sh "$program" "$@" config.toml >log 2>&1 &
    pid=$!
    await_ranks 4
}

start_on_hosts --set run.stages=2
await
check_finished "on two hosts"

# lose WHAT HOST: in the midst of calibration; then go on with what is left.
lose() {
    local what=$1 host=$2 begin seconds ended gone
    start_on_hosts --set run.stages=$((host * 2))
    await_state
    begin=$SECONDS
    if [ "$what" = host ]; then
        ip netns pids $net-"$host" | xargs -r kill -9
    else
        ip -n $net-0 link set port"$host" down
    fi
    # Of the job; ranks beyond a cut link end by themselves, when they see that they are alone.
    status=0
    { wait "$pid" || status=$?; } 2>/dev/null
    seconds=$((SECONDS - begin)) ended=$status
    cp log lost.log
    if [ "$status" = 0 ]; then
        fail "$what $host lost: too late, the job was done"
        rm -rf out.h5 out.parts
    else
        [ $seconds -le 30 ] || fail "$what $host lost: the job goes on for $seconds s"
        grep -q "lost communication" log && grep -q "daemon.* on node 10.77.0.$host" log || fail "$what $host lost: no message with its name"
    fi
    await
    gone=$((SECONDS - begin))
    ip -n $net-0 link set port"$host" up
    check_final "$what $host lost"
    finish_run "$what $host lost"
    echo "$what $host lost: status $ended after $seconds s, its ranks gone after $gone s:" \
        "$(grep -m1 "lost communication" lost.log) ($(grep -o "10.77.0.$host" lost.log | head -1))"
}
lose host 2
lose link 2
lose link 1
echo "$checked finished jobs checked, $failed failed"
[ $failed = 0 ]
