#!/usr/bin/env bash
# CoCLR+CPR on UCF101, flow model: positives are mined in RGB.
#
# Usage: bash scripts/ucf101_cpr_flow.sh FLOW_INFONCE.pth.tar RGB_CYCLE1.pth.tar [more options]
# Cost: 0.6 h on 2 NVIDIA H200, 330 h on 2 CPU cores, estimated from a measured step, docs/research/performance.md
# Expect: R@1 of at least 48.4 after two cycles, released checkpoint of CoCLR
# GPUS: processes, each of --batch_size (default 2). Run it again to resume; RESTARTS=3 also restarts it after a crash.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${2:-}" ] || { echo "error: give FLOW_INFONCE.pth.tar and RGB_CYCLE1.pth.tar" >&2; exit 2; }
exec torchrun --standalone --nproc_per_node="${GPUS:-2}" --max-restarts="${RESTARTS:-0}" \
    main_coclr.py --net s3d --topk 5 --moco-k 2048 --reverse \
    --dataset ucf101-2stream-2clip --seq_len 32 --ds 1 --batch_size 16 \
    --epochs 100 --schedule 80 --name_prefix Cycle1-RGBMining_Cascade_ -j 8 --resume auto \
    --pretrain "$1" "$2" --cascade --stage 7 --ratio 0.5 "${@:3}"
