#!/usr/bin/env bash
# REFINER end to end for a number of seeds, then one table and one page.
#
#   bash launch_scripts/refiner.sh [--config=FILE[:ARGS]] [--seeds=N]
#        [--first_seed=S] [--root=DIR] [--jobs=N] [--grid=RATE,RATE]
#        [-- --config.field=value ...]
#
# With --grid every arm is trained once per learning rate and the best by
# validation is kept; the runs lie side by side as ARM.RATE.
# Every stage can be killed; running the same command again goes on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

config="$top/configs/refiner/snlr.py"
seeds=1
first_seed=0
root="$top/workdir/refiner"
jobs=2
grid=
while (($#)); do
  case $1 in
    --config=*) config=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --first_seed=*) first_seed=${1#*=} ;;
    --root=*) root=${1#*=} ;;
    --jobs=*) jobs=${1#*=} ;;
    --grid=*) grid=${1#*=} ;;
    --) shift; break ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "refiner.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
overrides=("$@")

# shellcheck source=launch_scripts/pipeline.sh
source "$here/pipeline.sh"
numbers 0 --seeds --first_seed
numbers 1 --jobs
prepare "$jobs"

critic() {
  stage make_critic_data critic_data
  chosen "$grid" train_critic critic
}
# The same generator without a critic: as many updates as the refiner has, and
# as much compute as refiner and critic together.
refiner() {
  chosen "$grid" train_refiner refiner
  chosen "$grid" train_generator plain_updates control=updates
}
plain() { chosen "$grid" train_generator plain_compute control=compute; }

trained_arms() { stage run_refine refine "" --config.run_refine.share=critic; }
other_arms() { stage run_refine refine "" --config.run_refine.share=rest; }

for ((seed = first_seed; seed < first_seed + seeds; seed++)); do
  run="$root/seed$seed"
  echo "== seed $seed in $run"
  stage train_tokenizer tokenizer
  stage train_generator warm_start
  together "$jobs" critic refiner plain
  together "$jobs" trained_arms other_arms
done
python -m refine_jax.stages.make_report --config="$config" \
  --workdir="$root" ${overrides[@]+"${overrides[@]}"}
