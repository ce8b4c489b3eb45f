#!/usr/bin/env bash
# UberNCE (contrast with labels) on UCF101 from scratch.
#
# Usage: bash scripts/ucf101_ubernce.sh [more options]
# Cost: 1.3 h on 2 NVIDIA H200, 790 h on 2 CPU cores, estimated from a measured step, docs/research/performance.md
# Expect: no number was published for these settings
# GPUS: processes, each of --batch_size (default 2). Run it again to resume; RESTARTS=3 also restarts it after a crash.
set -euo pipefail
cd "$(dirname "$0")/.."
exec torchrun --standalone --nproc_per_node="${GPUS:-2}" --max-restarts="${RESTARTS:-0}" \
    main_nce.py --net s3d --model ubernce --moco-k 2048 \
    --dataset ucf101-2clip --seq_len 32 --ds 1 --batch_size 16 \
    --epochs 300 --schedule 240 -j 8 --resume auto --name_prefix scratch_ "$@"
