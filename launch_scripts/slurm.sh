#!/usr/bin/env bash
# A stage on GPUs of several nodes under Slurm.
#
#   bash launch_scripts/slurm.sh --nodes=N --gpus=PER_NODE [--partition=P] \
#        [--time=HH:MM:SS] [--account=A] [--job_name=NAME] [--logs=DIR] \
#        [--dry_run] -- \
#        refine_jax.stages.train_reft --config=... --workdir=/shared/run
#
# One process per node drives its GPUs; JAX finds the others through Slurm. A
# job that is preempted or runs out of time is queued again and goes on from
# its last checkpoint. The checkout and the workdir lie on a shared disk; the
# job has the environment of the shell that submits it (HF_TOKEN, say).
# --dry_run prints the batch script and the command that would submit it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

nodes='' gpus='' partition='' account='' dry=''
time=24:00:00 job=refine_jax logs=
while (($#)); do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --partition=*) partition=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --job_name=*) job=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    --dry_run) dry=1 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "slurm.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
for required in nodes gpus; do
  if [[ ! ${!required} =~ ^[1-9][0-9]*$ ]]; then
    echo "slurm.sh: --$required is a number (see --help)" >&2
    exit 2
  fi
done
if ((!$#)); then
  echo "slurm.sh: which stage? (see --help)" >&2
  exit 2
fi
logs=${logs:-$top/workdir/logs}

script() {
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$job
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=$time
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$logs/%x-%j.log
#SBATCH --signal=B:TERM@300
END
  if [[ $partition ]]; then echo "#SBATCH --partition=$partition"; fi
  if [[ $account ]]; then echo "#SBATCH --account=$account"; fi
  cat <<END
set -uo pipefail
export PATH=$(printf '%q' "${REFINE_JAX_VENV:-$top/.venv}")/bin:\$PATH
export JAX_COMPILATION_CACHE_DIR=\${JAX_COMPILATION_CACHE_DIR:-$(
    printf '%q' "$top/workdir/.xla")}
# Under Slurm JAX gives every task one GPU, unless it is told otherwise.
export JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
cd $(printf '%q' "$top") || exit
# A task uses all cores of its node. When one ends the others have time to
# finish a checkpoint.
srun --cpu-bind=none --kill-on-bad-exit=0 --wait=120 \\
  python -m $(printf '%q ' "$@")--distributed &
step=\$!
# Five minutes before the end the stage saves, and the job is queued again.
# scancel tells the tasks; srun itself would kill them at once.
save() {
  scancel --signal=TERM "\$SLURM_JOB_ID.0"
  wait "\$step"
  code=\$?
  if ((code)); then scontrol requeue "\$SLURM_JOB_ID"; fi
  exit "\$code"
}
trap save TERM
wait "\$step"
END
}

if [[ $dry ]]; then
  echo "mkdir -p $logs"
  echo "sbatch <<'END'"
  script "$@"
  echo "END"
  exit
fi
mkdir -p "$logs"
script "$@" | sbatch
