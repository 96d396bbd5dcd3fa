#!/usr/bin/env bash
# ReFT end to end for a number of seeds: warm start, supervised control, PPO,
# online and offline self-training, reranker, evaluation.
#
#   bash launch_scripts/reft.sh [--config=FILE[:ARGS]] [--seeds=N]
#        [--first_seed=S] [--root=DIR] [--jobs=N] [--variants=NAME,NAME]
#        [--grid=RATE,RATE] [--policy_grid=RATE,RATE]
#        [-- --config.field=value ...]
#
# The grids train the supervised arms and the on-policy ones once per learning
# rate and keep the best by validation. --variants adds ablations of ReFT to the
# table: no_partial, no_kl, separate_value, no_whitening.
# Every stage can be killed; running the same command again goes on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

config="$top/configs/reft/arithmetic.py"
seeds=1
first_seed=0
root="$top/workdir/reft"
jobs=2
variants=
grid=
policy_grid=
while (($#)); do
  case $1 in
    --config=*) config=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --first_seed=*) first_seed=${1#*=} ;;
    --root=*) root=${1#*=} ;;
    --jobs=*) jobs=${1#*=} ;;
    --variants=*) variants=${1#*=} ;;
    --grid=*) grid=${1#*=} ;;
    --policy_grid=*) policy_grid=${1#*=} ;;
    --) shift; break ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "reft.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
overrides=("$@")

# shellcheck source=launch_scripts/pipeline.sh
source "$here/pipeline.sh"
numbers 0 --seeds --first_seed
numbers 1 --jobs
prepare "$jobs"

# stage NAME FOLDER [CONFIG ARGUMENT [FLAG...]]: one binary in a folder of the
# seed's run. The seed is an argument here: the problems follow it as well.
stage() {
  local spec=$config argument
  for argument in "seed=$seed" ${3:+"$3"}; do
    if [[ $spec == *.py:* ]]; then spec+=",$argument"
    else spec+=":$argument"; fi
  done
  python -m "refine_jax.stages.$1" --config="$spec" --workdir="$run/$2" \
    "${@:4}" ${overrides[@]+"${overrides[@]}"}
}

on_policy() {
  local variant
  chosen "$policy_grid" train_reft reft
  for variant in ${variants//,/ }; do
    chosen "$policy_grid" train_reft "reft_$variant" "variant=$variant"
  done
  chosen "$policy_grid" train_online_st online_st
}
# The supervised control, and what is made of the warm start's samples.
supervised() {
  if [[ $warm_start != sft ]]; then
    chosen "$grid" train_generator sft arm=sft
  fi
  stage run_sample samples
  stage make_self_training_data offline_data
  chosen "$grid" train_generator offline arm=offline
  stage train_reranker reranker
}

# Published settings warm up within the supervised run itself.
warm_start=warm_start
if [[ $config == *reft/ppo.py* ]]; then warm_start=sft; fi
for ((seed = first_seed; seed < first_seed + seeds; seed++)); do
  run="$root/seed$seed"
  echo "== seed $seed in $run"
  stage train_tokenizer tokenizer
  stage train_generator "$warm_start" "arm=$warm_start"
  together "$jobs" on_policy supervised
  stage run_evaluate evaluation ${variants:+"variants=${variants//,/+}"}
done
