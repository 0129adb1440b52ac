#!/bin/bash
# The stage finetune on 1 node(s), 8 process(es) each, by one task of srun a process.
# Submit it again: sbatch THIS_FILE. Run it in an allocation that is there: bash THIS_FILE, inside salloc.
#SBATCH --job-name=vit_base
#SBATCH --partition=gpu
#SBATCH --time=24:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --array=0-1
#SBATCH --output=/shared/project/runs/vit_base/logs/slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@300
#SBATCH --exclusive
set -eo pipefail

record=/shared/project/runs/vit_base/launch  # this script, the code and the resolved config
runs=(
    /shared/project/runs/vit_base/seed-0
    '/shared/project/runs/it'"'"'s "one" $(touch pwned) `touch pwned` & * #1/seed-1'
)
run=${runs[${SLURM_ARRAY_TASK_ID:?wanted one task of an array}]}

# Processes meet on the first node of their step, at a port of its own: each finds both in Slurm's variables. Not in what
# the shell that submitted this had, nor on the first node of an allocation of which srun takes a part.
unset MASTER_ADDR MASTER_PORT
cd /shared/project

# From the cluster's config.
export NCCL_DEBUG=WARN

# The code as it was when this was submitted: a run that comes back is the same one, whatever became of the checkout.
export PYTHONPATH="$record/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-12}"

mkdir -p "$run"/logs "$run"/launch
rm -f "$run"/launch/saved
[ "${SLURM_RESTART_COUNT:-0}" != 0 ] || rm -f "$run"/launch/held  # who submits it by hand after a stop wants it to go on
code=0
srun --nodes=1 --ntasks=8 --ntasks-per-node=8 --cpus-per-task=12 --kill-on-bad-exit=1 \
    --output="$run"/logs/rank-%t.out --open-mode=append \
    bash "$record"/task.sh "$run" || code=$?
if [ "$code" = 0 ] && [ -e "$run"/launch/saved ]; then
    code=75
fi
echo "$code" > "$run"/launch/exit

# 75: saved before its end, so it goes on as the same job. Not after `python -m launch stop`, which leaves the file
# "held". 76 (its health) and 2 (a mistake) would only come back, so a person has to look.
if [ "$code" = 75 ] && [ "${ENVIRONMENT:-}" = BATCH ] && [ ! -e "$run"/launch/held ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
