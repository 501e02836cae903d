#!/bin/bash
# Train on the GPUs of several machines:
#
#   sbatch --nodes 2 --gpus-per-node 8 examples/cluster/slurm.sh --dataset criteo --data-path /shared/kaggle
#
# Arguments after the script go to `train`. --out and the cache must be folders that all machines see. Two minutes before the
# time limit, Slurm sends SIGTERM. The run then saves a checkpoint, is queued again, and resumes.
#SBATCH --job-name=dlrm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ranks=${SLURM_GPUS_ON_NODE:-1}
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK > ranks ? SLURM_CPUS_PER_TASK / ranks : 1))

# Each machine starts one torchrun, which starts one process per GPU. torchrun's store listens on all interfaces without a
# password, so the machines need an isolated network (SECURITY.md).
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$ranks" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    train.py --out "runs/slurm-$SLURM_JOB_ID" --resume "$@" &
training=$!
stopped=no
trap 'stopped=yes; kill -TERM "$training"' TERM

status=0
wait "$training" || status=$?
if [ "$stopped" = yes ]; then
    wait "$training" || true # the signal ended the first wait while the ranks save
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
