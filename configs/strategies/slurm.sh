#!/bin/bash
# A run over several nodes of a SLURM cluster. Adapt the lines that begin with #SBATCH, then
#
#   sbatch configs/strategies/slurm.sh \
#     --config RUN.yaml --config configs/strategies/fsdp.yaml --run_dir runs/two-nodes
#
# One task for each device. The first node, the ranks and the port follow from SLURM's variables.
#SBATCH --job-name=lit-gpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
set -euo pipefail

srun lit-gpt fit "$@" \
  --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE"
