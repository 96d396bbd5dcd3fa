#!/usr/bin/env bash
# REFINER's ablations on runs that launch_scripts/refiner.sh has made: noise in
# the critic's words, exploration and the critic switched off in training.
#
#   bash launch_scripts/refiner_ablations.sh [--config=FILE[:ARGS]]
#        [--root=DIR] [-- --config.field=value ...]
#
# Goes over every seed under the root, then writes DIR/ablations/report.html.
# Every stage can be killed; running the same command again goes on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

config="$top/configs/refiner/snlr.py"
root="$top/workdir/refiner"
while (($#)); do
  case $1 in
    --config=*) config=${1#*=} ;;
    --root=*) root=${1#*=} ;;
    --) shift; break ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "refiner_ablations.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
overrides=("$@")
if [[ ! -d $root/seed0/refiner && ! -d $root/seed1/refiner ]]; then
  echo "refiner_ablations.sh: no refiner under $root; run refiner.sh first" >&2
  exit 2
fi

# shellcheck source=launch_scripts/pipeline.sh
source "$here/pipeline.sh"
prepare 1

for run in "$root"/seed*; do
  seed=${run##*/seed}
  echo "== seed $seed in $run"
  stage train_refiner refiner.greedy "" \
    --config.train_refiner.rollout.samples=1 \
    --config.train_refiner.rollout.temperature=0.0
  stage train_refiner refiner.alone "" --config.train_refiner.critic=none
  stage train_refiner refiner.noise "" --config.train_refiner.noise=0.5
  stage run_refine ablations ablations=true
done
# The report is the whole root's.
seed=0 run=$root
stage make_report ablations ablations=true
