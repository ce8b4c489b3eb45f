#!/usr/bin/env bash
# Test a finetuned model on UCF101 (RGB) with ten crops.
#
# Usage: bash scripts/ucf101_finetune_test.sh FINETUNED.pth.tar [more options]
# Cost: 3 minutes on 2 NVIDIA H200, 28 h on 2 CPU cores, estimated from a measured step, docs/research/performance.md
# Expect: top-1 of at least 81.4, CoCLR paper; with the flow model 83.8, CPR paper
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${1:-}" ] || { echo "error: give FINETUNED.pth.tar" >&2; exit 2; }
exec python eval/main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 --batch_size 32 \
    --train_what ft --epochs 500 --schedule 400 450 \
    --test "$1" --ten_crop "${@:2}"
