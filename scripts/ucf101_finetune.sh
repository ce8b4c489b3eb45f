#!/usr/bin/env bash
# Finetune a pretrained model on UCF101 (RGB).
#
# Usage: bash scripts/ucf101_finetune.sh PRETRAINED.pth.tar [more options]
# Cost: 1.7 h on 2 NVIDIA H200, 1000 h on 2 CPU cores, estimated from a measured step, docs/research/performance.md
# Expect: top-1 with ten crops of at least 81.4, pretrained on Kinetics-400 87.9, CoCLR paper; with the
#         flow model 83.8, CPR paper
# Given again, the command resumes from the newest checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${1:-}" ] || { echo "error: give PRETRAINED.pth.tar" >&2; exit 2; }
exec python eval/main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 --batch_size 32 \
    --train_what ft --epochs 500 --schedule 400 450 --resume auto \
    --pretrain "$1" "${@:2}"
