#!/usr/bin/env bash
# The whole system on clips that are rendered here: bash scripts/demo.sh [--out demo]
# Renders videos, trains both streams, co-trains them, evaluates, and ends with one page to open and one search.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
# Threads that wait without spinning: the loader shares the cores with the training.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
python scripts/demo.py "$@"
