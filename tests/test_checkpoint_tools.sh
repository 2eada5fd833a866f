#!/bin/sh
# What users open a checkpoint with: h5ls, h5dump and (where there is one) h5py show what was written,
# without a plug-in when it is not compressed, with ours when it is. A disk that fails while it is
# written leaves nothing.
# Usage: test_checkpoint_tools.sh WRITE_TOOL COMPARE_TOOL PLUGIN_FOLDER FAULTS_LIBRARY
# FAULTS_LIBRARY: tests/preload_faults.c, or "none".
set -eu
write=$1 compare=$2 plugins=$3 faults=$4
command -v h5dump >/dev/null || { echo "h5dump is not installed: skipped"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset HDF5_PLUGIN_PATH HDF5_PLUGIN_PRELOAD

fail() { echo "FAILED: $*"; exit 1; }
# Elements first..last of /w as the writer makes them, one a line.
expected() { seq "$1" "$2" | awk '{print $1 % 16 - 8}'; }
# Rows 2091 and 2092 of /w (the end of one chunk, the start of the next), one a line.
shown() { h5dump -y -d /w -s 2091,0 -c 2,501 "$1" | sed -n '/DATA {/,/}/p' | grep -Eo -- '-?[0-9]+'; }
expected $((2091 * 501)) $((2093 * 501 - 1)) >"$folder/rows"

for layout in single sharded; do
    for compression in none zstd; do
        "$write" "$folder/$layout-$compression.h5" $compression $layout
    done
    shown "$folder/$layout-none.h5" >"$folder/seen" || fail "h5dump reads $layout none"
    cmp "$folder/rows" "$folder/seen" || fail "h5dump: $layout none"
    HDF5_PLUGIN_PATH=$plugins shown "$folder/$layout-zstd.h5" >"$folder/seen" ||
        fail "h5dump reads $layout zstd"
    cmp "$folder/rows" "$folder/seen" || fail "h5dump: $layout zstd"
    h5dump -H -d /w "$folder/$layout-none.h5" | grep -q '4-bit precision' || fail "4-bit type"
done
h5ls -r "$folder/single-none.h5" | grep -q '^/w  *Dataset {2500, 501}' || fail "h5ls single"
h5ls -r -E "$folder/sharded-none.h5" | grep -q '^/w .*Dataset {2500, 501}' || fail "h5ls sharded"

# The comparison tool sees what is the same and what is not.
"$compare" "$folder/single-none.h5" "$folder/sharded-zstd.h5" || fail "layouts differ"
"$write" "$folder/other.h5" zstd single 1
if "$compare" "$folder/single-zstd.h5" "$folder/other.h5" >"$folder/difference"; then
    fail "the comparison finds no difference"
fi
grep -q '^/w: elements differ, first in byte 0' "$folder/difference" || fail "what differs"

# The disk is full from one operation on, each in turn: of writing, closing, syncing, renaming.
for layout in single sharded; do
    [ "$faults" != none ] || break
    at=0 status=3
    rm -rf "$folder/full.h5" "$folder/full.parts"
    while [ $status != 0 ]; do
        at=$((at + 1)) status=0
        LD_PRELOAD=$faults FAULT_KIND=ENOSPC FAULT_AT=$at \
            "$write" "$folder/full.h5" none $layout 2>"$folder/message" || status=$?
        [ $status = 0 ] || { [ $status = 3 ] && grep -q 'No space left' "$folder/message"; } ||
            fail "full at operation $at: status $status: $(cat "$folder/message")"
        [ $status = 0 ] || [ -z "$(find "$folder" -name full.h5 -o -name '*.tmp')" ] ||
            fail "full at operation $at: a file is left"
    done
    "$compare" "$folder/single-none.h5" "$folder/full.h5" || fail "$layout: whole after all"
    echo "$layout: the disk was full at each of $((at - 1)) operations"
done

python=/usr/bin/python3
if ! $python -c 'import h5py' 2>/dev/null; then
    echo "h5py is not installed: its part is skipped"
    exit 0
fi
HDF5_PLUGIN_PATH=$plugins $python - "$folder" <<'END' || fail "h5py"
import hashlib
import sys

import h5py
import numpy

weights = (numpy.arange(2500 * 501) % 16 - 8).astype(numpy.int8).reshape(2500, 501)
floats = (1.5 * 2.0 ** (numpy.arange(64) - 32)).astype(numpy.float32)
for layout in "single", "sharded":
    for compression in "none", "zstd":
        with h5py.File(f"{sys.argv[1]}/{layout}-{compression}.h5") as file:
            assert file["w"].dtype == numpy.int8 and (file["w"][()] == weights).all()
            assert file["b"].dtype == numpy.float32 and (file["b"][()] == floats).all()
            assert file["b"].attrs["policy"] == "static"
            lines = dict(line.decode().split("  ")[::-1] for line in file["manifest"][()])
            assert lines["/w"] == hashlib.sha256(file["w"][()].tobytes()).hexdigest()
            assert lines["/b@attributes"] == hashlib.sha256(b"policy=static\n").hexdigest()
            assert sorted(lines) == ["/@attributes", "/b", "/b@attributes", "/w"]
END
