#!/bin/bash
# Starts one process of a run. DeepSpeed's launcher runs this and adds --local_rank to the arguments.
set -eo pipefail

record=/shared/project/runs/vit_base/launch  # this script, the code and the resolved config
run=/shared/project/runs/vit_base
cd /shared/project

# From the cluster file.
export NCCL_SOCKET_IFNAME=eth0

# The code as it was at the launch: a resumed run does not depend on later edits of the checkout.
export PYTHONPATH="$record/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

echo "$PPID $(sed 's/.*) //' "/proc/$PPID/stat" | cut -d" " -f20)" > "$record/host-$CROSS_RANK.pid"  # and its start time
exec python3 -m pretrain "$run"/launch/config.yaml "$@"
