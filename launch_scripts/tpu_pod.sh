#!/usr/bin/env bash
# A stage on a Cloud TPU slice: makes or reuses it, copies this checkout,
# installs it, runs the stage on every worker, follows worker 0, and starts
# again from the last checkpoint when the slice is preempted.
#
#   bash launch_scripts/tpu_pod.sh --name=NAME --zone=ZONE --type=v5litepod-16 \
#        [--project=P] [--version=RUNTIME] [--spot] [--queued] [--restarts=N] \
#        [--data=DIR] [--delete] [--dry_run] -- \
#        refine_jax.stages.train_reft --config=... --workdir=/mnt/shared/run
#
# What is committed is copied. The workdir lies on a disk that all workers have.
# --queued asks for a queued resource and waits for it. --delete gives the
# slice back at the end. --dry_run prints every command and runs none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

name='' zone='' type='' project='' version='' spot='' queued='' delete='' dry=''
data=/mnt/shared/data
restarts=20
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --data=*) data=${1#*=} ;;
    --spot) spot=1 ;;
    --queued) queued=1 ;;
    --delete) delete=1 ;;
    --dry_run) dry=1 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "tpu_pod.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
for required in name zone type; do
  if [[ -z ${!required} ]]; then
    echo "tpu_pod.sh: --$required is missing (see --help)" >&2
    exit 2
  fi
done
if ((!$#)); then
  echo "tpu_pod.sh: which stage? (see --help)" >&2
  exit 2
fi
if [[ -z $version ]]; then
  case $type in
    v4-*) version='tpu-ubuntu2204-base' ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) echo "tpu_pod.sh: --version for $type?" >&2; exit 2 ;;
  esac
fi
where=(--zone="$zone")
if [[ $project ]]; then where+=(--project="$project"); fi
tpu=(gcloud compute tpus tpu-vm)

# run COMMAND...: or, in a dry run, prints it as it could be typed.
run() {
  if [[ $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# READY, another of its states, or ABSENT; a dry run supposes the last.
state() {
  if [[ $dry ]]; then
    run "${tpu[@]}" describe "$name" "${where[@]}" \
      "--format=value(state)" >&2
    echo ABSENT
    return
  fi
  "${tpu[@]}" describe "$name" "${where[@]}" --format='value(state)' \
    2>/dev/null || echo ABSENT
}

create() {
  local more=()
  if [[ $spot ]]; then more+=(--spot); fi
  if [[ $queued ]]; then
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" \
      "${where[@]}" --accelerator-type="$type" --runtime-version="$version" \
      ${more[@]+"${more[@]}"}
    if [[ ! $dry ]]; then
      until [[ $(state) == READY ]]; do sleep 30; done
    fi
  else
    run "${tpu[@]}" create "$name" "${where[@]}" --accelerator-type="$type" \
      --version="$version" ${more[@]+"${more[@]}"}
  fi
}

remove() {
  if [[ $queued ]]; then
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" \
      --force --quiet
  else
    run "${tpu[@]}" delete "$name" "${where[@]}" --quiet
  fi
}

# everywhere COMMAND: on all workers; only worker 0's is followed below.
everywhere() {
  run "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all --command="$1"
}

install() {
  local archive=refine_jax.tar.gz folder=${TMPDIR:-.}
  if [[ ! $dry ]]; then folder=$(mktemp -d); fi
  run git -C "$top" archive --format=tar.gz --output="$folder/$archive" HEAD
  run "${tpu[@]}" scp "$folder/$archive" "$name:$archive" "${where[@]}" \
    --worker=all
  everywhere "mkdir -p refine_jax && tar xzf $archive -C refine_jax && \
(python3 -m venv venv || (sudo apt-get update -qq && \
sudo apt-get install -y -qq python3-venv && python3 -m venv venv)) && \
venv/bin/pip install -q -e 'refine_jax[tpu,gcs]'"
}

# The stage on every worker; worker 0's log goes by here.
stage() {
  local arguments
  arguments=$(printf '%q ' "$@")
  everywhere "cd refine_jax && \
export JAX_COMPILATION_CACHE_DIR=\$HOME/.xla REFINE_JAX_DATA=$data && \
case \$(hostname) in *-w-0) out=/dev/stdout ;; \
*) out=\$HOME/stage.log ;; esac && \
../venv/bin/python -m ${arguments% } --distributed >\$out 2>&1"
}

for ((attempt = 0; attempt <= restarts; attempt++)); do
  case $(state) in
    READY) echo "tpu_pod.sh: $name is there" ;;
    ABSENT) create && install ;;
    *) remove && create && install ;;
  esac
  code=0
  stage "$@" || code=$?
  if ((!code)); then
    if [[ $delete ]]; then remove; fi
    exit
  fi
  if [[ $(state) == READY ]]; then
    echo "tpu_pod.sh: the stage ended with code $code and the slice is well;" \
      "not starting again" >&2
    exit "$code"
  fi
  echo "tpu_pod.sh: the slice is gone; attempt $((attempt + 2))" >&2
done
echo "tpu_pod.sh: gave up after $restarts restarts" >&2
exit 1
