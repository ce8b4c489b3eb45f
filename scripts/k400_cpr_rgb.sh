#!/usr/bin/env bash
# CoCLR+CPR on Kinetics-400, RGB model: positives are mined in flow.
#
# Usage: bash scripts/k400_cpr_rgb.sh RGB_INFONCE.pth.tar FLOW_INFONCE.pth.tar [more options]
# Cost: 7 h on 2 NVIDIA H200, 4100 h on 2 CPU cores, estimated from a measured step, docs/research/performance.md
# Expect: finetuned on UCF101 at least 87.9, CoCLR paper
# GPUS: processes, each of --batch_size (default 2). Run it again to resume; RESTARTS=3 also restarts it after a crash.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${2:-}" ] || { echo "error: give RGB_INFONCE.pth.tar and FLOW_INFONCE.pth.tar" >&2; exit 2; }
exec torchrun --standalone --nproc_per_node="${GPUS:-2}" --max-restarts="${RESTARTS:-0}" \
    main_coclr.py --net s3d --topk 5 --moco-k 16384 \
    --dataset k400-2stream-2clip --seq_len 32 --ds 1 --batch_size 16 \
    --epochs 50 --schedule 40 --name_prefix Cycle1-FlowMining_Cascade_ -j 8 --resume auto \
    --pretrain "$1" "$2" --cascade --stage 7 --ratio 0.5 "${@:3}"
