#!/usr/bin/env bash
# UCF101 as published, from the downloaded LMDBs to results beside the published ones: InfoNCE on both streams, two
# cycles of CoCLR+CPR, retrieval, linear probe, finetuning with ten crops, both streams together.
#
# Usage: bash scripts/ucf101.sh [more options of cotrain.py, e.g. --skip finetune]
# Cost: 9 h on 2 NVIDIA H200, 5 h with --skip finetune, estimated from a measured step, docs/research/performance.md
# Expect: R@1 of both streams 56.7, finetuned with ten crops 83.8, CPR paper
# DATA: folder that holds UCF101/ucf101_frame.lmdb and UCF101/ucf101_tvl1_frame.lmdb (default data); GPUS: processes
# (default 2); OUT: work folder (default runs/ucf101). Given again, the command continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA="${DATA:-data}" OUT="${OUT:-runs/ucf101}"
python process_data/src/write_csv.py --name ucf101 --data "$DATA/UCF101/ucf101_frame.lmdb"
python cotrain.py --dataset ucf101 --data_root "$DATA" --out "$OUT" --gpus "${GPUS:-2}" "$@"
exec python -m tools.verify "$OUT"
