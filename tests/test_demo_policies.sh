#!/usr/bin/env bash
# The demo's policies, known beforehand, for several calibration sets and rank counts.
#   test_demo_policies.sh FPTQ_PIPELINE SOURCE_FOLDER
set -euo pipefail
program=$1 source=$2
# shellcheck source=jobs/setup
source "$source/jobs/setup"
setup_mpi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
expected=$source/tests/demo/expected_policies.txt

# check RANKS [SET...]
check() {
  local ranks=$1 settings=() setting
  shift
  for setting in "$@"; do
    settings+=(--set "$setting")
  done
  mpirun -n "$ranks" "$program" -q "${settings[@]}" --set "output.checkpoint=\"$folder/demo.h5\"" \
    --restart --json "$folder/report.json" "$source/configs/demo.toml" >"$folder/log" 2>&1 || {
    cat "$folder/log"
    exit 1
  }
  python3 - "$folder/report.json" >"$folder/found" <<'PYTHON'
import json, sys
for site in json.load(open(sys.argv[1]))["sites"]:
    print(site["layer"], site["site"], site["policy"])
PYTHON
  if ! diff <(grep -v '^#' "$expected" | cut -d ' ' -f 1-3) "$folder/found"; then
    echo "FAIL: $ranks ranks, $*"
    exit 1
  fi
  echo "$(wc -l <"$folder/found") sites as expected: $ranks ranks, $*"
  rm -rf "$folder"/demo.*
}

# Chosen by measuring: no input with planted outliers is static, and each choice is within the tolerance
# of the best treatment.
mpirun -n 2 "$program" -q --set quantization.policy=error --set "output.checkpoint=\"$folder/demo.h5\"" \
  --json "$folder/report.json" "$source/configs/demo.toml" >"$folder/log" 2>&1 || {
  cat "$folder/log"
  exit 1
}
python3 - "$folder/report.json" "$expected" <<'PYTHON'
import json, sys
sites = json.load(open(sys.argv[1]))["sites"]
lines = [line.split() for line in open(sys.argv[2]) if not line.startswith("#")]
order = ["static", "equalized", "dynamic", "equalized-dynamic"]
assert len(sites) == len(lines) == 20
for site, (layer, name, planted, _) in zip(sites, lines):
    errors = [site["output_errors"][treatment] for treatment in order]
    cheapest = next(i for i in range(4) if errors[i] <= min(errors) * (1 + 0.1 + 1e-6))
    assert (site["layer"], site["site"]) == (int(layer), name), site
    assert site["policy"] == order[cheapest], site
    assert planted == "static" or errors[0] > 1.3 * errors[cheapest], site
print(len(sites), "sites as measured")
PYTHON
rm -rf "$folder"/demo.*

check 1
check 4
check 3 calibration.seed=2 calibration.samples=32
check 2 calibration.seed=3 calibration.sequence_length=512 calibration.samples=8
check 2 run.precision=f32
