#!/usr/bin/env bash
# UberNCE (contrast with labels) on UCF101 from scratch.
# Usage: bash scripts/ucf101_ubernce.sh [more options]; GPUS is the number of processes on this machine (default 2).
# Run again, it goes on from the newest checkpoint; RESTARTS=3 lets it do so by itself after a crash (default 0).
set -euo pipefail
cd "$(dirname "$0")/.."
exec torchrun --standalone --nproc_per_node="${GPUS:-2}" --max-restarts="${RESTARTS:-0}" \
    main_nce.py --net s3d --model ubernce --moco-k 2048 \
    --dataset ucf101-2clip --seq_len 32 --ds 1 --batch_size 16 \
    --epochs 300 --schedule 240 -j 8 --resume auto --name_prefix scratch_ "$@"
