#!/usr/bin/env bash
# All tests, in the project's own environment: bash scripts/test.sh [pytest options]
set -euo pipefail
. "$(dirname "$0")/setup.sh"
# One thread an operation: the tests are small, and two processes at a time use the cores better. A file's tests stay
# in one process, which makes what they share once. TEST_PROCESSES=0 runs all in this one, for --pdb.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
python -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile "$@"
