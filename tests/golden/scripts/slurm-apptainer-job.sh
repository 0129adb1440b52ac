#!/bin/bash
# The stage finetune on 1 node(s), 4 process(es) each, by one task of srun a process.
# Submit it again: sbatch THIS_FILE. Run it in an allocation that is there: bash THIS_FILE, inside salloc.
#SBATCH --job-name=vit_base
#SBATCH --partition=gpu
#SBATCH --account=my-project
#SBATCH --time=24:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=h200:4
#SBATCH --output=/shared/project/runs/vit_base/logs/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@300
set -eo pipefail

record=/shared/project/runs/vit_base/launch  # this script, the code and the resolved config
run=/shared/project/runs/vit_base

# Processes meet on the first node of their step, at a port of its own: each finds both in Slurm's variables. Not in what
# the shell that submitted this had, nor on the first node of an allocation of which srun takes a part.
unset MASTER_ADDR MASTER_PORT
cd /shared/project

# From the cluster's config.
module load apptainer

# The code as it was when this was submitted: a run that comes back is the same one, whatever became of the checkout.
export PYTHONPATH="$record/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-16}"

mkdir -p "$run"/logs "$run"/launch
rm -f "$run"/launch/saved
[ "${SLURM_RESTART_COUNT:-0}" != 0 ] || rm -f "$run"/launch/held  # who submits it by hand after a stop wants it to go on
code=0
srun --nodes=1 --ntasks=4 --ntasks-per-node=4 --cpus-per-task=16 --kill-on-bad-exit=1 \
    --output="$run"/logs/rank-%t.out --open-mode=append \
    apptainer exec --nv --bind /shared/project:/shared/project --bind /shared/data:/shared/data /shared/images/videomae.sif bash "$record"/task.sh "$run" || code=$?
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
