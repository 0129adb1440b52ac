#!/bin/bash
# Starts the processes of one host, of 2 in all:
#   on node1: bash THIS_FILE 0
#   on node2: bash THIS_FILE 1
set -eo pipefail

node=$1
record='/shared/project/runs/it'"'"'s "one" $(touch pwned) `touch pwned` & * #1/launch'  # this script, the code and the resolved config
run='/shared/project/runs/it'"'"'s "one" $(touch pwned) `touch pwned` & * #1'
cd /shared/project

# The code as it was at the launch: a resumed run does not depend on later edits of the checkout.
export PYTHONPATH="$record/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

mkdir -p "$run"/logs
echo "$$ $(sed 's/.*) //' "/proc/$$/stat" | cut -d" " -f20)" > "$record/host-$node.pid"  # and its start time
exec python3 -m deepspeed.launcher.runner \
    --hostfile="$record"/hostfile --no_ssh --node_rank="$node" \
    --master_addr=node1 --master_port=30129 \
    --module pretrain "$run"/launch/config.yaml
