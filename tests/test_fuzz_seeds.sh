#!/usr/bin/env bash
# Every fuzz target on its seeds and on their beginnings.
#   test_fuzz_seeds.sh SEEDS_PROGRAM REPLAY_PROGRAM...
set -euo pipefail
seeds=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR=$folder
mkdir "$folder/seeds"
"$seeds" "$folder/seeds"
failed=0
for replay in "$@"; do
  target=$(basename "$replay")
  target=${target#replay_}
  "$replay" "$folder/seeds/$target" >"$folder/log" 2>&1 || {
    head -60 "$folder/log"
    failed=1
  }
  echo "$target: $(tail -1 "$folder/log")"
done
exit $failed
