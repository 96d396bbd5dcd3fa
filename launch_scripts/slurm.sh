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
# shellcheck source=launch_scripts/numbers.sh
source "$here/numbers.sh"
numbers 1 --nodes --gpus
if ((!$#)); then
  echo "slurm.sh: which stage? (see --help)" >&2
  exit 2
fi
logs=${logs:-$top/workdir/logs}
for value in "$job" "$time" "$logs" "$partition" "$account"; do
  if [[ $value == *[\"\\$'\n']* ]]; then
    printf 'slurm.sh: sbatch would misread %q\n' "$value" >&2
    exit 2
  fi
done

# directive NAME VALUE: a line for sbatch, which reads quotes as a shell does.
directive() { echo "#SBATCH --$1=\"$2\""; }

script() {
  cat <<END
#!/usr/bin/env bash
$(directive job-name "$job")
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --exclusive
#SBATCH --mem=0
$(directive time "$time")
#SBATCH --requeue
#SBATCH --open-mode=append
$(directive output "$logs/%x-%j.log")
#SBATCH --signal=B:TERM@300
END
  if [[ $partition ]]; then directive partition "$partition"; fi
  if [[ $account ]]; then directive account "$account"; fi
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
  printf 'mkdir -p %q\n' "$logs"
  echo "sbatch <<'END'"
  script "$@"
  echo "END"
  exit
fi
mkdir -p "$logs"
script "$@" | sbatch
