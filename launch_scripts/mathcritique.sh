#!/usr/bin/env bash
# MathCritique end to end: critiques, critic, critique-in-the-loop
# self-improvement with its baselines, self-talk, evaluation, one report.
#
#   bash launch_scripts/mathcritique.sh [--config=FILE[:ARGS]] [--seeds=N]
#        [--first_seed=S] [--root=DIR] [--iterations=T] [--arms=A,B,...]
#        [--start=scratch|previous] [--grid=RATE,RATE,...]
#        [-- --config.field=value ...]
#
# Arms: critic, vanilla, matched (vanilla with the critic's compute), talk
# (self-talk), trajectory and plain (its baselines). All are made of the same
# problems and trained for as many updates: where iterations go on from the last
# actor (START previous), so do the other arms from the first one, for as many
# updates as all iterations have. T and START are the config's (loop.iterations,
# loop.start) if they are not given. With --grid every arm chooses its learning
# rate by validation, a loop in its first iteration; the runs lie side by side
# as ARM.RATE. Every stage can be killed; running the same command again goes
# on, and a finished stage adds nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

config="$top/configs/mathcritique/arithmetic.py"
seeds=1
first_seed=0
root="$top/workdir/mathcritique"
iterations=
arms=critic,vanilla,matched,talk,trajectory,plain
start=
grid=
while (($#)); do
  case $1 in
    --config=*) config=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --first_seed=*) first_seed=${1#*=} ;;
    --root=*) root=${1#*=} ;;
    --iterations=*) iterations=${1#*=} ;;
    --arms=*) arms=${1#*=} ;;
    --start=*) start=${1#*=} ;;
    --grid=*) grid=${1#*=} ;;
    --) shift; break ;;
    -h | --help) sed -n '2,19s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "mathcritique.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
case $start in
  '' | scratch | previous) ;;
  *) echo "mathcritique.sh: --start is scratch or previous" >&2; exit 2 ;;
esac
overrides=("$@")

# shellcheck source=launch_scripts/pipeline.sh
source "$here/pipeline.sh"
numbers 0 --seeds --first_seed ${iterations:+--iterations}
prepare 1
iterations=${iterations:-$(setting loop.iterations)}
start=${start:-$(setting loop.start)}
drafts=$(setting loop.drafts)
steps=$(setting train_generator.train.steps phase=loop)
epochs=$(setting train_generator.train.epochs phase=loop)

# actor RATES FOLDER EXAMPLES [FROM]: a generator trained on a stage's examples,
# from the base model, or from another run.
actor() {
  local from=(--config.train_generator.model.init_from="${4:+../$4}")
  chosen "$1" train_generator "$2" phase=loop "${from[@]}" \
    --config.train_generator.examples="('../$3/examples.jsonl',)"
}

# baseline NAME PHASE [FLAG...]: an arm without iterations, with all of theirs'
# updates.
baseline() {
  local from=(--config.train_generator.model.init_from=)
  if [[ $start == previous ]]; then
    from=(--config.train_generator.model.init_from=../actor0
      --config.train_generator.train.steps=$((iterations * steps))
      --config.train_generator.train.epochs=$((iterations * epochs)))
  fi
  chosen "$grid" train_generator "$1" "phase=$2" "${from[@]}" "${@:3}"
}

# loop ARM: T iterations of self-improvement.
loop() {
  local arm=$1 t last=actor0 before=() listed rates=$grid best
  for ((t = 1; t <= iterations; t++)); do
    listed=$(IFS=,; echo "${before[*]+"${before[*]}"}")
    stage make_self_improve_data "${arm}${t}_data" "" \
      --config.make_self_improve_data.explore="$arm" \
      --config.make_self_improve_data.actor="../$last" \
      --config.make_self_improve_data.difficulty="../difficulty/samples.jsonl" \
      --config.make_self_improve_data.previous="(${listed:+$listed,})"
    if [[ $start == previous ]]; then
      actor "$rates" "$arm$t" "${arm}${t}_data" "$last"
    else
      actor "$rates" "$arm$t" "${arm}${t}_data"
    fi
    if [[ -n $grid ]]; then
      best=$(readlink "$run/$arm$t")
      rates=${best#"$arm$t".}
    fi
    before+=("'../${arm}${t}_data'")
    last=$arm$t
  done
}

talk() {
  stage make_self_talk_data "$1_data" "" \
    --config.make_self_talk_data.form="$1"
  if [[ ! -s "$run/$1_data/examples.jsonl" ]]; then
    echo "$1: nothing was kept to train on; seed $seed goes without this arm"
    trained=${trained//,$1,/,}
    return
  fi
  baseline "$1" loop \
    --config.train_generator.examples="('../$1_data/examples.jsonl',)"
}

# refined ARM: the actor of an arm's last iteration, with the critic.
refined() {
  stage run_refine refine_last "" --config.run_refine.generator="../$1" \
    --config.run_refine.reviser="../$1" \
    --config.run_refine.only="('critique, gated',)"
}

wanted() { [[ ",$arms," == *",$1,"* ]]; }

for ((seed = first_seed; seed < first_seed + seeds; seed++)); do
  run="$root/seed$seed" trained=",$arms,"
  echo "== seed $seed in $run"
  stage train_tokenizer tokenizer
  stage make_mathcritique_data bootstrap phase=bootstrap
  if [[ $drafts == True ]]; then
    stage train_generator draft phase=draft
    stage make_mathcritique_data drafts phase=drafts
  fi
  stage train_generator actor0
  stage make_mathcritique_data critic_data
  stage train_critic critic
  stage run_refine refine
  stage run_sample difficulty
  for arm in critic vanilla matched; do
    if wanted "$arm"; then loop "$arm"; fi
  done
  for arm in talk trajectory; do
    if wanted "$arm"; then talk "$arm"; fi
  done
  if wanted plain; then
    baseline plain plain
  fi
  if wanted critic && ((iterations)); then refined "critic$iterations"; fi
  trained=${trained#,} trained=${trained%,}
  stage run_evaluate evaluate "arms=${trained//,/+},iterations=$iterations"
done
python -m refine_jax.stages.make_critique_report --config="$config" \
  --workdir="$root" ${overrides[@]+"${overrides[@]}"}
