#!/usr/bin/env bash
# A stage on a TPU slice of GKE: makes the JobSet and applies it.
#
#   bash launch_scripts/k8s/jobset.sh --name=NAME --image=IMAGE \
#        --accelerator=tpu-v5-lite-podslice --topology=4x4 \
#        --claim=VOLUME_CLAIM [--chips_per_host=4] [--slices=N] \
#        [--secret=refine-jax] [--restarts=20] [--namespace=NS] [--dry_run] -- \
#        refine_jax.stages.train_reft --config=... --workdir=/shared/run
#
# The cluster has the JobSet controller (0.6 or later) and, for every slice, a
# node pool of that topology; the image has this package with the extra `tpu`
# (k8s/Dockerfile). The claim, which many pods can write, is mounted at /shared
# and holds data and workdir. What the secret has, if there is one, is in the
# environment (HF_TOKEN). A pod that is evicted restarts all of them, and the
# stage goes on from its checkpoint; a mistake in the command or config ends it.
# --dry_run prints the manifest and the command that would apply it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

name='' image='' accelerator='' topology='' claim='' namespace=default dry=''
chips_per_host=4 slices=1 restarts=20 secret=refine-jax
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --chips_per_host=*) chips_per_host=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --secret=*) secret=${1#*=} ;;
    --claim=*) claim=${1#*=} ;;
    --namespace=*) namespace=${1#*=} ;;
    --dry_run) dry=1 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "jobset.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
for required in name image accelerator topology claim; do
  if [[ -z ${!required} ]]; then
    echo "jobset.sh: --$required is missing (see --help)" >&2
    exit 2
  fi
done
if [[ ! $topology =~ ^[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}$ ]]; then
  echo "jobset.sh: --topology is like 4x4 or 4x4x4, not $topology" >&2
  exit 2
fi
# shellcheck source=launch_scripts/numbers.sh
source "$here/../numbers.sh"
numbers 1 --chips_per_host --slices
numbers 0 --restarts
chips=$((${topology//x/*}))
if ((chips % chips_per_host)); then
  echo "jobset.sh: the $chips chips of $topology are no whole hosts of" \
    "--chips_per_host=$chips_per_host" >&2
  exit 2
fi
hosts=$((chips / chips_per_host))
if ((!$#)); then
  echo "jobset.sh: which stage? (see --help)" >&2
  exit 2
fi

# A list in YAML of the words of the command.
words() {
  local word
  for word in "$@" --distributed; do
    printf "                    - '%s'\n" "${word//\'/\'\'}"
  done
}

# The template with its words replaced. Values are in quotes: an & in them would
# be the word again.
manifest() {
  local line
  while IFS= read -r line; do
    if [[ $line == *@COMMAND@* ]]; then
      words "$@"
      continue
    fi
    line=${line//@NAME@/"$name"}
    line=${line//@NAMESPACE@/"$namespace"}
    line=${line//@IMAGE@/"$image"}
    line=${line//@ACCELERATOR@/"$accelerator"}
    line=${line//@TOPOLOGY@/"$topology"}
    line=${line//@CLAIM@/"$claim"}
    line=${line//@SECRET@/"$secret"}
    line=${line//@CHIPS@/"$chips_per_host"}
    line=${line//@HOSTS@/"$hosts"}
    line=${line//@SLICES@/"$slices"}
    line=${line//@RESTARTS@/"$restarts"}
    printf '%s\n' "$line"
  done <"$here/jobset.yaml"
}

if [[ $dry ]]; then
  echo "kubectl apply -f - <<'END'"
  manifest "$@"
  echo "END"
  exit
fi
manifest "$@" | kubectl apply -f -
