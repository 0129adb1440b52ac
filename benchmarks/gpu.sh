#!/usr/bin/env bash
# Everything there is to see on a GPU, most valuable first:  bash benchmarks/gpu.sh OUT [--minutes 8] [--device cpu --tiny]
# Each part has a limit in seconds; one that fails or hangs costs no more, and none begins after the minutes. The limits add
# up to more: parts mostly take less, and what does not fit is the least valuable. Results are written to
# OUT/PART.json as they come, logs to OUT/PART.log; the table of benchmarks.gpu_table comes last and stands in OUT/table.txt.
# It needs no network. `--device cpu --tiny` rehearses every part on a CPU with the smallest models.
set -uo pipefail

usage() { echo "usage: bash benchmarks/gpu.sh OUT [--minutes 8] [--device cuda|cpu] [--tiny]" >&2; exit 2; }
case ${1:--} in -*) usage ;; esac
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd); shift
minutes= device=cuda tiny=0
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=${2:?}; shift 2 ;;
        --device) device=${2:?}; shift 2 ;;
        --tiny) tiny=1; shift ;;
        *) usage ;;
    esac
done
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 WANDB_MODE=disabled TOKENIZERS_PARALLELISM=false
[ "$device" = cuda ] || export CUDA_VISIBLE_DEVICES=
[ -n "$minutes" ] || minutes=$((tiny ? 240 : 8)) # a rehearsal may take as long as it takes
deadline=$(($(date +%s) + minutes * 60))

# part NAME SECONDS COMMAND...: standard output goes to OUT/NAME.json, standard error to OUT/NAME.log
part() {
    local name=$1 limit=$2 began left code; shift 2
    began=$(date +%s) left=$((deadline - $(date +%s)))
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 5 ]; then
        echo "no time left" >"$out/$name.log"; code=-1
    else
        timeout -k 10 "$limit" "$@" >"$out/$name.json" 2>"$out/$name.log"; code=$?
    fi
    printf '{"part": "%s", "code": %s, "seconds": %s}\n' "$name" "$code" $(($(date +%s) - began)) >>"$out/parts.jsonl"
    echo "$name: exit code $code after $(($(date +%s) - began)) s" >&2
}

# tests NAME SECONDS FILES...: the verdicts go to OUT/NAME.xml and .json; addopts and filterwarnings need plug-ins
tests() {
    local name=$1 limit=$2; shift 2
    part "$name" "$limit" "$python" -m pytest -o addopts= -o filterwarnings=default -p no:cacheprovider \
        -q -rfEs --durations=10 --device "$device" --junitxml="$out/$name.xml" "$@"
    mv "$out/$name.json" "$out/$name.txt"
}

run_step() { local name=$1 limit=$2; shift 2; part "$name" "$limit" "$python" -m benchmarks.step --device "$device" --json "$@"; }

: >"$out/parts.jsonl"
if [ "$tiny" = 1 ]; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    tests tests_engines 900 tests/gpu/test_engines.py -k "not compile"  # the unit tests compile on CPUs
    run_step step_ours 900 --sizes demo --precision bf16 --mode eager --forms ours --steps 2 --batch 2
    run_step step_rivals 900 --sizes demo --precision bf16 --mode eager --steps 2 --batch 2 --forms ours official huggingface dual share cross
    run_step step_batch 900 --sizes demo --precision bf16 --find-batch --max-batch 16 --forms ours
    run_step profile 900 --sizes demo --precision bf16 --batch 2 --profile
    part end_to_end 900 "$python" -m benchmarks.end_to_end --device "$device" --size demo --videos 8 --frame 160x120 \
        --batch 4 --steps 15 --workers 1 --json
    part finetune 900 "$python" -m benchmarks.step_finetune configs/demo/benchmark.yaml --device "$device" --batch 2 --steps 1 --json
    tests tests_stages 900 tests/gpu/test_stages.py
    run_step engines 900 --sizes demo --precision bf16 --batch 2 --steps 2 --zero 0 1 --processes 1
else
    tests tests_engines 90 tests/gpu/test_engines.py
    run_step step_ours_large 80 --sizes large --precision bf16 --mode compiled --forms ours --steps 3 --batch 64
    run_step step_ours_base 60 --sizes base --precision bf16 --mode compiled --forms ours --steps 3 --batch 128
    part end_to_end 70 "$python" -m benchmarks.end_to_end --device "$device" --size base --batch 128 --compile --steps 60 --json
    run_step step_base 80 --sizes base --precision bf16 --mode eager --steps 3 --batch 64
    tests tests_stages 80 tests/gpu/test_stages.py
    run_step profile 50 --sizes large --precision bf16 --mode compiled --batch 64 --profile
    run_step step_large 60 --sizes large --precision bf16 --mode eager --steps 2 --batch 32
    part finetune 70 "$python" -m benchmarks.step_finetune --device "$device" --steps 5 --compile --json
    run_step step_batch 60 --sizes large --precision bf16 --mode compiled --find-batch --forms ours
    run_step engines 40 --sizes base --precision bf16 --batch 64 --steps 5 --zero 0 1 2 3 --processes 1
    run_step step_variants 60 --sizes base --precision bf16 --mode eager --steps 3 --batch 64 --forms ours dual share cross checkpointing
    run_step step_huge 60 --sizes huge --precision bf16 --mode eager --steps 2 --batch 32 --forms ours
    run_step step_rest 100 --sizes small base --precision bf16 --mode compiled --steps 3 --batch 64
fi
"$python" -m benchmarks.gpu_table "$out" | tee "$out/table.txt"
