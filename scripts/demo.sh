#!/usr/bin/env bash
# The whole system on a small video set that is rendered here: bash scripts/demo.sh [--out demo]
# Prepares videos, pretrains both streams, co-trains them with CPR, evaluates, and prints one table of results.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
python scripts/demo.py "$@"
