#!/usr/bin/env bash
# The fuzz targets, a minute each, in the suite's long mode (FPTQ_TEST_LONG=1).
#   test_fuzz.sh SOURCE_FOLDER BUILD_FOLDER
set -euo pipefail
if [[ ${FPTQ_TEST_LONG:-0} != 1 ]]; then
  echo "skipped: takes a quarter of an hour (FPTQ_TEST_LONG=1 runs it)"
  exit 77
fi
FPTQ_FUZZ_FOLDER=$2/fuzz exec "$1/tests/fuzz/run" 60
