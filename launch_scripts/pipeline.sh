# shellcheck shell=bash
# shellcheck disable=SC2154
# Sourced by the scripts that run a method's stages in order. They set $top,
# $config, $root, $overrides and, for every seed, $seed and $run.

# shellcheck source=launch_scripts/numbers.sh
source "$top/launch_scripts/numbers.sh"

# prepare [JOBS]: the environment, the root, and programs compiled once for all
# stages and seeds.
prepare() {
  # shellcheck source=launch_scripts/environment.sh
  source "$top/launch_scripts/environment.sh"
  environment plain
  mkdir -p "$root"
  root=$(cd "$root" && pwd)
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.xla}
  export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5
  # Small models gain nothing from several threads, and branches run beside.
  if ((${1:-1} > 1)); then
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_multi_thread_eigen=false"
  fi
}

# with ARGUMENT: the config with one more argument, if it is not empty.
with() {
  if [[ -z $1 ]]; then
    echo "$config"
  elif [[ $config == *.py:* ]]; then
    echo "$config,$1"
  else
    echo "$config:$1"
  fi
}

# stage NAME FOLDER [CONFIG ARGUMENT [FLAG...]]: one binary in a folder of the
# seed's run.
stage() {
  python -m "refine_jax.stages.$1" --config="$(with "${3:-}")" \
    --config.seed="$seed" --workdir="$run/$2" "${@:4}" \
    ${overrides[@]+"${overrides[@]}"}
}

# setting FIELD [CONFIG ARGUMENT]: a field of the config, overrides included.
setting() {
  python -m refine_jax.stages.show --config="$(with "${2:-}")" \
    ${overrides[@]+"${overrides[@]}"} "$1"
}

# chosen RATES NAME FOLDER [CONFIG ARGUMENT [FLAG...]]: a training stage at the
# config's learning rate, or once per rate of RATES (comma between), the best by
# validation being FOLDER.
chosen() {
  local rate rates=$1 runs=() best
  shift
  if [[ -z $rates ]]; then
    stage "$@"
    return
  fi
  if [[ -d "$run/$2" && ! -L "$run/$2" ]]; then
    echo "$run/$2 was trained without a grid of rates" >&2
    return 1
  fi
  for rate in ${rates//,/ }; do
    stage "$1" "$2.$rate" "${3:-}" "${@:4}" \
      "--config.$1.train.optimizer.learning_rate=$rate"
    runs+=("$run/$2.$rate")
  done
  best=$(python -m refine_jax.stages.choose_best "${runs[@]}")
  ln -sfn "$(basename "$best")" "$run/$2"
}

# together JOBS BRANCH...: branches that need nothing of each other, side by
# side unless JOBS is 1.
together() {
  local branch pid failed=0 pids=() jobs=$1
  shift
  if ((jobs == 1)); then
    for branch in "$@"; do "$branch"; done
    return
  fi
  for branch in "$@"; do
    "$branch" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return $failed
}
