# shellcheck shell=bash
# Sourced by the tests that run the program: MPI as jobs/setup has it, and a folder of the test's own,
# which goes at the end. Before: program and source are set.

# shellcheck source=jobs/setup
source "$source/jobs/setup"
setup_mpi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
  echo "FAIL: $*"
  exit 1
}

settings=() # KEY=VALUE of every run
# quantize NAME RANKS CONFIG [SET ...]: into NAME.h5, the report in NAME.json, what it prints in log.
quantize() {
  local name=$1 ranks=$2 config=$3 arguments=() setting
  shift 3
  for setting in "${settings[@]}" "$@"; do arguments+=(--set "$setting"); done
  mpirun -n "$ranks" "$program" -q --json "$folder/$name.json" "${arguments[@]}" \
    --set "output.checkpoint=\"$folder/$name.h5\"" "$config" >"$folder/log" 2>&1 || {
    cat "$folder/log"
    fail "$name ($ranks ranks, ${settings[*]} $*)"
  }
}

# same REFERENCE RANKS CONFIG [SET ...]: quantize; the checkpoint is REFERENCE.h5's equal, and goes. Needs
# compare; counts in checked.
checked=0
same() {
  local reference=$1 ranks=$2
  shift
  rm -rf "$folder"/other.*
  quantize other "$@"
  "$compare" "$folder/$reference.h5" "$folder/other.h5" || fail "not $reference.h5's equal: $*"
  rm -rf "$folder"/other.*
  checked=$((checked + 1))
  echo "same as $reference: $ranks ranks, ${*:3}"
}
