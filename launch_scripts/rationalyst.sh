#!/usr/bin/env bash
# RATIONALYST end to end for a number of seeds; one table per seed.
#
#   bash launch_scripts/rationalyst.sh [--config=FILE[:ARGS]] [--seeds=N]
#        [--first_seed=S] [--root=DIR] [--pretrained] [-- --config.field=value ...]
#
# With --pretrained the base is not trained here. Every stage can be killed;
# running the same command again goes on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

config="$top/configs/rationalyst/hint_chains.py"
seeds=1
first_seed=0
pretrained=0
root="$top/workdir/rationalyst"
while (($#)); do
  case $1 in
    --config=*) config=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --first_seed=*) first_seed=${1#*=} ;;
    --root=*) root=${1#*=} ;;
    --pretrained) pretrained=1 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "rationalyst.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
overrides=("$@")

# shellcheck source=launch_scripts/pipeline.sh
source "$here/pipeline.sh"
numbers 0 --seeds --first_seed
prepare 1

for ((seed = first_seed; seed < first_seed + seeds; seed++)); do
  run="$root/seed$seed"
  echo "== seed $seed in $run"
  if ! ((pretrained)); then
    stage train_tokenizer tokenizer
    stage make_base_examples base_examples
    stage train_generator base
  fi
  stage make_documents documents
  stage make_rationales rationales
  stage make_rationale_data rationale_data
  stage train_rationalyst rationalyst
  stage train_rationalyst sft sft
  stage run_stepwise stepwise
  cat "$run/stepwise/table.md"
done
