#!/bin/bash
# One node's part of a run over several nodes, by torchrun. Start it on every node, each with its own
# NODE_RANK (0 on the node that MASTER_ADDR names); the run folder lies on a file system of them all.
#
#   NUM_NODES=2 NODE_RANK=0 DEVICES=8 MASTER_ADDR=node-a bash configs/strategies/torchrun.sh \
#     --config RUN.yaml --config configs/strategies/fsdp.yaml --run_dir runs/two-nodes
set -euo pipefail

: "${NUM_NODES:?set NUM_NODES, the number of nodes}"
: "${NODE_RANK:?set NODE_RANK, the number of this node, from 0}"
: "${DEVICES:?set DEVICES, the number of devices of each node}"
: "${MASTER_ADDR:?set MASTER_ADDR, the name of the first node}"

exec torchrun --nnodes "$NUM_NODES" --node-rank "$NODE_RANK" --nproc-per-node "$DEVICES" \
  --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" \
  --no-python lit-gpt fit "$@" --trainer.num_nodes "$NUM_NODES" --trainer.devices "$DEVICES"
