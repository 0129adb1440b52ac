#!/usr/bin/env bash
# Does pretraining pay on real clips? One device, minutes: bash benchmarks/science.sh OUT --minutes 8
# Rehearsal without a GPU: bash benchmarks/science.sh OUT --minutes 0.2 --device cpu --tiny
# Results come to OUT as JSON, OUT/table.md last, the log to OUT/science.log. See benchmarks/science.py for the parts.
set -euo pipefail
out=${1:?usage: bash benchmarks/science.sh OUT [--minutes 8] [--device cpu --tiny]}
shift
mkdir -p "$out"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the workers draw in processes
exec "${PYTHON:-python3}" -m benchmarks.science "$out" "$@" 2> >(tee "$out/science.log" >&2)
