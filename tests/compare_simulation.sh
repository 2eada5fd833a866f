#!/usr/bin/env bash
# Compares the simulator with real runs on this machine: 1, 2, 4 and 8 ranks with equal work for each, with rates from
# plan --measure. For a quiet machine; no test of the suite, since its figures are times.
#   compare_simulation.sh BUILD_FOLDER [REPEATS]
# Wall time, from loading to the last part written, where every rank has a core; always rank-seconds: what the ranks
# compute, without waiting, measured as processor time. Of REPEATS runs (default 2) the quickest counts.
set -euo pipefail
build=$(realpath "$1") repeats=${2:-2}
program=$build/fptq-pipeline source=$(dirname "$(realpath "$0")")/..
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
cores=$(nproc)

"$build/tests/tool_make_model" "$folder/model" type=bf16 layers=8 hidden=1024 intermediate=2816 heads=16 kv_heads=16 \
    head_dim=64 vocabulary=2000 positions=2048
cat >"$folder/config.toml" <<END
[model]
path = "model"

[calibration]
data = "random-tokens"
sequence_length = 1024
chunk_tokens = 256

[output]
checkpoint = "$folder/out.h5"

[run]
threads = 1
END

cat >"$folder/row.py" <<'END'
import json, sys
simulated, cores, label = json.load(open(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
runs = [json.load(open(name)) for name in sys.argv[4:]]
ranks = simulated["ranks"]

def section(run, name):
    return next(s for s in run["sections"] if s["name"] == name)

def wall(run):
    return run["seconds"] - sum(section(run, name)["most"] for name in ("open", "sample", "assemble"))

def difference(figure, real):
    return f"{figure:10.2f} {real:9.2f} {100 * (figure / real - 1):+6.1f}%"

busy = ("load", "compute", "quantize", "write")
processor = min(sum(section(run, name)["processor"] for name in busy) for run in runs)
quickest = min(runs, key=wall)
found = simulated["simulation"]
text = f"{label:9} " + difference(sum(found["rank_seconds"][name] for name in busy), processor)
if ranks <= cores:
    waited, all_sections = (sum(section(quickest, name)["mean"] for name in names)
                            for names in (("wait",), busy + ("wait", "reduce")))
    text += " " + difference(found["seconds"], wall(quickest))
    text += f" {100 * found['rank_seconds']['wait'] / (ranks * found['seconds']):9.1f}% {100 * waited / all_sections:8.1f}%"
print(text)
END

uptime
echo "          rank-seconds                 wall seconds                 share of waiting"
echo "mesh       simulated  measured         simulated  measured          simulated measured"
# compare STAGES REPLICAS
compare() {
    local ranks=$(($1 * $2)) runs=() arguments=() setting
    local settings=("run.stages=$1" "run.replicas=$2" "calibration.samples=$((4 * ranks))")
    for setting in "${settings[@]}"; do arguments+=(--set "$setting"); done
    mpirun -n "$((ranks < cores ? ranks : cores))" "$program" plan -q --measure --simulate "$ranks" "${arguments[@]}" \
        --json "$folder/plan.json" "$folder/config.toml" >"$folder/log"
    for ((i = 0; i < repeats; i++)); do
        quantize "run$i" "$ranks" "$folder/config.toml"
        runs+=("$folder/run$i.json")
        rm "$folder/run$i.h5"
    done
    python3 "$folder/row.py" "$folder/plan.json" "$cores" "$1 x $2" "${runs[@]}"
}
compare 1 1
compare 2 1
compare 1 2
compare 4 1
compare 2 2
compare 8 1
compare 4 2
uptime
