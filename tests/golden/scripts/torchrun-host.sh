#!/bin/bash
# Starts the processes of one host, of 2 in all:
#   on node1: bash THIS_FILE 0
#   on node2: bash THIS_FILE 1
set -eo pipefail

node=$1
record='/shared/project/runs/it'"'"'s "one" $(touch pwned) `touch pwned` & * #1/launch'  # this script, the code and the resolved config
run='/shared/project/runs/it'"'"'s "one" $(touch pwned) `touch pwned` & * #1'
cd /shared/project

# From the cluster file.
export NCCL_SOCKET_IFNAME=eth0

# The code as it was at the launch: a resumed run does not depend on later edits of the checkout.
export PYTHONPATH="$record/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

mkdir -p "$run"/logs
echo "$$ $(sed 's/.*) //' "/proc/$$/stat" | cut -d" " -f20)" > "$record/host-$node.pid"  # and its start time
hosts=(node1 node2)
processes=(8 8)
# torchrun passes signals on to its processes and gives them 600 s to save; before torch 2.12, 30 s.
wait=()
if python3 -m torch.distributed.run --help | grep -e --shutdown-timeout >/dev/null; then
    wait=(--shutdown-timeout=600)
fi
# The rendezvous is static, because c10d waits forever for a first host that the network no longer reaches.
exec python3 -m torch.distributed.run \
    --nnodes=2 --nproc-per-node="${processes[$node]}" \
    --rdzv-backend=static --rdzv-endpoint=node1:30129 --rdzv-id='it'"'"'s "one" $(touch pwned) `touch pwned` & * #1' \
    --node-rank="$node" --local-addr="${hosts[$node]}" \
    --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 "${wait[@]}" \
    -m pretrain "$run"/launch/config.yaml
