#!/usr/bin/env bash
# One training run on Slurm, one torchrun per node. Arguments are those of launch/train.py:
#
#     sbatch --nodes 4 launch/slurm/train.sh +experiment=llama3_70b_lora output_dir=SHARED/run trainer.save_steps=100
#
# Submit it with the environment active, from the repository or, where derta is installed, from anywhere. output_dir,
# model and data must lie where all nodes see them. Five minutes before the time limit every rank saves a checkpoint, and
# the job is queued again to go on from it.
#SBATCH --job-name=derta
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
if [ -f launch/train.py ]; then train=(launch/train.py); else train=(-m derta.launch.train); fi

# A port of its own for every job: two jobs may share a head node.
srun --ntasks-per-node=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:$((20000 + SLURM_JOB_ID % 10000))" \
    --shutdown-timeout 270 "${train[@]}" "$@" &
step=$!

# srun hands SIGTERM to the torchruns, they to their ranks, which agree, save and leave within --shutdown-timeout.
stopped=""
trap 'stopped=yes; kill -TERM "$step"' USR1 TERM
code=0
wait "$step" || code=$?
if [ -n "$stopped" ]; then
    wait "$step" || code=$?
    echo "stopped by a signal; queued again, to go on from the newest complete checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
