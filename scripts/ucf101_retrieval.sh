#!/usr/bin/env bash
# Retrieve video clips on UCF101 (RGB) with a pretrained checkpoint.
#
# Usage: bash scripts/ucf101_retrieval.sh PRETRAINED.pth.tar [more options, e.g. --dataset ucf101-f for a flow model]
# Cost: 1 minute on an NVIDIA H200, 3.5 h on 2 CPU cores, estimated from a measured step, docs/research/performance.md
# Expect: R@1 51.8, released RGB checkpoint of CoCLR; both streams of CPR 56.7, CPR paper
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${1:-}" ] || { echo "error: give PRETRAINED.pth.tar" >&2; exit 2; }
exec python eval/main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 \
    --test "$1" --retrieval "${@:2}"
