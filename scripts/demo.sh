#!/usr/bin/env bash
# The whole system on a small video set that is rendered here: bash scripts/demo.sh [--out demo]
# Prepares videos, pretrains both streams, co-trains them with CPR, evaluates, and prints one table of results.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
# Threads that wait without spinning: the loader shares the cores with the training.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
python scripts/demo.py "$@"
