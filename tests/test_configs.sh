#!/usr/bin/env bash
# Every model's configuration makes a plan, on files of the true shapes that hold no data.
#   test_configs.sh FPTQ_PIPELINE MAKE_MODEL SOURCE_FOLDER
set -euo pipefail
program=$1 make_model=$2 source=$3
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"

# plan NAME RANKS KEY=VALUE...: the model's shapes for tool_make_model. The plan's memory must fit the
# job script's.
plan() {
    local name=$1 ranks=$2
    shift 2
    "$make_model" "$folder/$name" sparse=1 positions=2048 "$@"
    "$program" plan --set "model.path=\"$folder/$name\"" --set "run.stages=$ranks" --set run.replicas=1 \
        --set run.threads=8 --set run.memory_limit=64TiB "$source/configs/$name.toml" >"$folder/plan"
    local memory tasks nodes
    memory=$(sed -n 's/^#SBATCH --mem=\([0-9]*\)G$/\1/p' "$source/jobs/$name.sbatch")
    tasks=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' "$source/jobs/$name.sbatch")
    nodes=$(sed -n 's/^#SBATCH --nodes=//p' "$source/jobs/$name.sbatch")
    [ "$((nodes * tasks))" = "$ranks" ]
    awk -v name="$name" -v memory="$memory" -v tasks="$tasks" '$1 == "memory" {
        need = $2 * tasks * ($3 == "MiB" ? 1 / 1024 : 1)
        print name ": " $2 " " $3 " in a rank, " need " of " memory " GiB in a node"
        exit !(need < memory)
    }' "$folder/plan"
    grep -q "^mesh  *$ranks stage(s)" "$folder/plan"
}
forget() {
    rm -r "${folder:?}/$1"
}
# llama NAME RANKS LAYERS HIDDEN INTERMEDIATE HEADS KV_HEADS
llama() {
    plan "$1" "$2" type=f16 vocabulary=32000 head_dim=128 "layers=$3" "hidden=$4" "intermediate=$5" "heads=$6" \
        "kv_heads=$7"
    forget "$1"
}
llama llama-7b 8 32 4096 11008 32 32
llama llama-13b 8 40 5120 13824 40 40
llama llama-30b 16 60 6656 17920 52 52
llama llama-65b 32 80 8192 22016 64 64
llama llama-2-7b 8 32 4096 11008 32 32
llama llama-2-13b 8 40 5120 13824 40 40
llama llama-2-70b 32 80 8192 28672 64 8
plan bloom-7b1 10 model_type=bloom type=f16 layers=30 hidden=4096 heads=32 vocabulary=250880
forget bloom-7b1
plan bloom-176b 35 model_type=bloom type=bf16 layers=70 hidden=14336 heads=112 vocabulary=250880

# Thousands of ranks, played by one process, and measured rates.
for ranks in 64 4096; do
    "$program" plan --simulate "$ranks" --json "$folder/$ranks.json" --set "model.path=\"$folder/bloom-176b\"" \
        --set run.threads=8 --set run.memory_limit=64GiB "$source/configs/bloom-176b.toml" >"$folder/plan"
    grep -E '^(mesh|time|idle share) ' "$folder/plan"
    # As many lines of the timeline as rows of stages, each 72 columns wide.
    [ "$(grep -c '^ *[0-9-]* |[L#.RQW ]\{72\}|$' "$folder/plan")" -ge 1 ]
    grep -q '"rank_seconds"' "$folder/$ranks.json"
done
sed "s|../tests/demo|$source/tests/demo|" "$source/configs/demo.toml" >"$folder/demo.toml"
mpirun -n 2 "$program" plan --measure --json "$folder/measured.json" \
    --set "output.checkpoint=\"$folder/x.h5\"" "$folder/demo.toml" >"$folder/plan"
grep -A 1 '^rates ' "$folder/plan"
[ "$(grep -cE '"((link|write)_)?measured": true' "$folder/measured.json")" = 3 ]
# Every rate is a positive number, and the disk was left as it was.
rates=$(sed -n '/"rates"/,/}/s/^ *"\([a-z_]*\)": \([0-9.e+-]*\),*$/\2/p' "$folder/measured.json")
echo "$rates" | awk '!($1 > 0) {exit 1} END {exit NR != 9}'
[ -z "$(find "$folder" -name '*measure-*')" ]
