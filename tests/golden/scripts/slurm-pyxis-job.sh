#!/bin/bash
# Runs the stage pretrain on 1 node(s) with 8 process(es) each, one srun task per process.
# To submit it again: sbatch THIS_FILE. To run it in an existing allocation: bash THIS_FILE, inside salloc.
#SBATCH --job-name=vit_base
#SBATCH --partition=gpu
#SBATCH --time=24:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --gpus-per-node=8
#SBATCH --output=/shared/project/runs/vit_base/logs/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@300
set -eo pipefail

record=/shared/project/runs/vit_base/launch  # this script, the code and the resolved config
run=/shared/project/runs/vit_base

# Each process derives address and port of the rendezvous from Slurm's variables: the first node of its step, and a
# port of that step. Variables of the submitting shell would override them.
unset MASTER_ADDR MASTER_PORT
cd /shared/project

# The code as it was at the launch: a resumed run does not depend on later edits of the checkout.
export PYTHONPATH="$record/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-12}"

mkdir -p "$run"/logs "$run"/launch
rm -f "$run"/launch/saved
[ "${SLURM_RESTART_COUNT:-0}" != 0 ] || rm -f "$run"/launch/held  # submitted again by hand: requeue as usual
code=0
srun --nodes=1 --ntasks=8 --ntasks-per-node=8 --cpus-per-task=12 --kill-on-bad-exit=1 --container-image=/shared/images/videomae.sqsh --container-mounts=/shared/project:/shared/project,/shared/data:/shared/data --no-container-mount-home \
    --output="$run"/logs/rank-%t.out --open-mode=append \
    bash "$record"/task.sh "$run" || code=$?
if [ "$code" = 0 ] && [ -e "$run"/launch/saved ]; then
    code=75
fi
echo "$code" > "$run"/launch/exit

# 75: stopped and saved, so the same job is requeued; not after `videomae stop`, which creates the file "held".
# 76 (a health limit) and 2 (a user error) would only repeat.
if [ "$code" = 75 ] && [ "${ENVIRONMENT:-}" = BATCH ] && [ ! -e "$run"/launch/held ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
