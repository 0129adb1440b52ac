#!/usr/bin/env bash
# Does pretraining pay on real clips? One device, minutes: bash benchmarks/science.sh OUT --data SHARDS --minutes 8
# SHARDS: videomae shards build VIDEOS SHARDS --short-side 128 --fps 15, or 256 for --size 224.
# Rehearsal without a GPU: bash benchmarks/science.sh OUT --data SHARDS --minutes 2 --device cpu --tiny
# Results come to OUT as JSON, OUT/table.md last, the log to OUT/science.log. See benchmarks/science.py for the parts.
set -uo pipefail
out=${1:?usage: bash benchmarks/science.sh OUT --data SHARDS [--minutes 8] [--size 224] [--device cpu --tiny]}
shift
mkdir -p "$out" || exit 2
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1 # the workers draw in processes
"${PYTHON:-python3}" -m benchmarks.science "$out" "$@" 2>&1 | tee "$out/science.log"
