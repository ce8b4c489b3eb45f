#!/usr/bin/env bash
# Finetune a pretrained model on UCF101 (RGB).
# Usage: bash scripts/ucf101_finetune.sh PRETRAINED.pth.tar [more options]
# Run again, it goes on from the newest checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python eval/main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 --batch_size 32 \
    --train_what ft --epochs 500 --schedule 400 450 --resume auto \
    --pretrain "${1:?the first argument is PRETRAINED.pth.tar}" "${@:2}"
