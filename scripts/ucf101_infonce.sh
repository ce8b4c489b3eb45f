#!/usr/bin/env bash
# InfoNCE on UCF101 from scratch, the start of co-training; STREAM=flow trains the flow model (default rgb).
#
# Usage: [STREAM=flow] bash scripts/ucf101_infonce.sh [more options]
# Cost: 1.3 h on 2 NVIDIA H200, 790 h on 2 CPU cores, estimated from a measured step, docs/research/performance.md
# Expect: R@1 36.1 (RGB) and 45.2 (flow), released checkpoints of CoCLR
# GPUS: processes, each of --batch_size (default 2). Run it again to resume; RESTARTS=3 also restarts it after a crash.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${STREAM:-rgb}" in
    rgb) dataset=ucf101-2clip ;;
    flow) dataset=ucf101-f-2clip ;;
    *) echo "error: STREAM is rgb or flow, not '$STREAM'" >&2; exit 2 ;;
esac
exec torchrun --standalone --nproc_per_node="${GPUS:-2}" --max-restarts="${RESTARTS:-0}" \
    main_nce.py --net s3d --model infonce --moco-k 2048 \
    --dataset "$dataset" --seq_len 32 --ds 1 --batch_size 16 \
    --epochs 300 --schedule 250 280 -j 8 --resume auto --name_prefix "${STREAM:-rgb}_" "$@"
