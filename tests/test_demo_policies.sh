#!/usr/bin/env bash
# The demo's policies, known beforehand, for several calibration sets and rank counts.
#   test_demo_policies.sh FPTQ_PIPELINE SOURCE_FOLDER
set -euo pipefail
program=$1 source=$2
# shellcheck source=tests/common.sh
source "$source/tests/common.sh"
expected=$source/tests/demo/expected_policies.txt

# check RANKS [SET...]
check() {
  quantize demo "$1" "$source/configs/demo.toml" "${@:2}"
  python3 - "$folder/demo.json" >"$folder/found" <<'PYTHON'
import json, sys
for site in json.load(open(sys.argv[1]))["sites"]:
    print(site["layer"], site["site"], site["policy"])
PYTHON
  diff <(grep -v '^#' "$expected" | cut -d ' ' -f 1-3) "$folder/found" || fail "$1 ranks, ${*:2}"
  echo "$(wc -l <"$folder/found") sites as expected: $1 ranks, ${*:2}"
}

# Chosen by measuring: no input with planted outliers is static, and each choice is within the tolerance
# of the best treatment.
quantize demo 2 "$source/configs/demo.toml" quantization.policy=error
python3 - "$folder/demo.json" "$expected" <<'PYTHON'
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

check 1
check 4
check 3 calibration.seed=2 calibration.samples=32
check 2 calibration.seed=3 calibration.sequence_length=512 calibration.samples=8
check 2 run.precision=f32
