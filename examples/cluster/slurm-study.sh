#!/bin/bash
# A comparison on many machines:
#
#   sbatch --array 0-29 examples/cluster/slurm-study.sh --dataset criteo --data-path /shared/kaggle \
#       --data.cache-dir /shared/cache --optimizers adagrad,hybrid --trials 30 --seeds 10
#
# Task 0 begins the comparison and writes the report. What stands after the script goes to it. The other tasks join, and train
# runs that nobody works on. --out and the cache must be folders that all machines see. A task that is stopped gives its run
# back after a minute. If task 0 is stopped, `python -m dlrm_adahessian compare` with the same flags and --out writes the report.
#SBATCH --job-name=dlrm-study
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

out="runs/study-$SLURM_ARRAY_JOB_ID"
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

if [ "$SLURM_ARRAY_TASK_ID" = 0 ]; then
    exec srun python -m dlrm_adahessian compare --out "$out" "$@"
fi
# The rows are prepared first. A task does not wait longer for a comparison that never begins.
timeout "${LONGEST_WAIT:-2h}" bash -c 'until [ -e "$0" ]; do sleep 5; done' "$out/comparison.json"
exec srun python -m dlrm_adahessian compare --join "$out"
