#!/usr/bin/env bash
# Runs a stage as several processes on this machine, joined over loopback.
#
#   bash launch_scripts/local_multiprocess.sh N DEVICES_EACH [--dry_run] -- \
#        python -m refine_jax.stages.train_generator --config=... --workdir=...
#
# Every process gets DEVICES_EACH host devices (0: whatever devices it finds)
# and --distributed. The output of process 0 is shown, that of the others is in
# $REFINE_JAX_LOGS (a temporary folder) and shown where one fails. When a
# process dies the others are ended, within a minute; the same command resumes.
# Programs are compiled once: JAX_COMPILATION_CACHE_DIR, or workdir/.xla here.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit "${1:-0}"
}
case ${1:-} in -h | --help) usage ;; esac
if (($# < 4)); then usage 2 >&2; fi
processes=$1
each=$2
shift 2
dry=
if [[ $1 == --dry_run ]]; then
  dry=1
  shift
fi
if [[ $1 != -- ]]; then usage 2 >&2; fi
shift
if ((!$#)); then
  echo "local_multiprocess.sh: which command? (see --help)" >&2
  exit 2
fi
# shellcheck source=launch_scripts/numbers.sh
source "$top/launch_scripts/numbers.sh"
numbers 1 processes
numbers 0 each

port=${REFINE_JAX_PORT:-$((20000 + RANDOM % 20000))}
flags=${XLA_FLAGS:-}
cache=${JAX_COMPILATION_CACHE_DIR:-$top/workdir/.xla}
seconds=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.5}
if ((each)); then
  flags="$flags --xla_force_host_platform_device_count=$each"
fi

# environment_of INDEX: what process INDEX is told, one NAME=VALUE a line.
environment_of() {
  echo "REFINE_JAX_COORDINATOR=127.0.0.1:$port"
  echo "REFINE_JAX_PROCESSES=$processes"
  echo "REFINE_JAX_PROCESS=$1"
  echo "XLA_FLAGS=$flags"
  echo "JAX_COMPILATION_CACHE_DIR=$cache"
  echo "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=$seconds"
  if ((each)); then echo "JAX_PLATFORMS=cpu"; fi
}

if [[ $dry ]]; then
  for ((i = 0; i < processes; i++)); do
    mapfile -t variables < <(environment_of "$i")
    printf '%q ' env "${variables[@]}" "$@" --distributed
    echo
  done
  exit
fi

logs=${REFINE_JAX_LOGS:-$(mktemp -d)}
mkdir -p "$logs"
children=()
# Ends those that still run; first politely, so that they may save.
finish() {
  local pid
  for pid in "${children[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for ((t = 0; t < ${REFINE_JAX_GRACE:-30} * 5; t++)); do
    for pid in "${children[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        sleep 0.2
        continue 2
      fi
    done
    return 0
  done
  for pid in "${children[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
}
trap 'finish; exit 130' INT TERM
# Shows and keeps what process 0 says, to the end: a terminal's ctrl-c is for
# all, and a process whose words nobody takes could not save.
both() {
  trap '' INT TERM
  exec tee "$1"
}

for ((i = 0; i < processes; i++)); do
  mapfile -t variables < <(environment_of "$i")
  if ((i == 0)); then
    env "${variables[@]}" "$@" --distributed \
      > >(both "$logs/$i.out") 2> >(both "$logs/$i.err" >&2) &
  else
    env "${variables[@]}" "$@" --distributed \
      >"$logs/$i.out" 2>"$logs/$i.err" &
  fi
  children+=($!)
done

# Whichever ends first and badly ends them all.
left=("${!children[@]}")
while ((${#left[@]})); do
  next=() said='' first=0
  for i in "${left[@]}"; do
    if kill -0 "${children[$i]}" 2>/dev/null; then
      next+=("$i")
      continue
    fi
    code=0
    wait "${children[$i]}" || code=$?
    if ((code)); then
      said+="process $i of $processes ended with code $code; "
      # Whoever was left alone ends with 1, maybe at the same moment.
      if ((first < 2)); then first=$code; fi
      if ((i)); then tail -n 20 "$logs/$i.err" >&2; fi
    fi
  done
  if ((first)); then
    case $first in
      2 | 126 | 127) again= ;; # a mistake in the command or config
      *) again=' Run the same command to resume.' ;;
    esac
    echo "local_multiprocess.sh: ${said}ending the others.$again" >&2
    finish
    exit "$first"
  fi
  left=(${next[@]+"${next[@]}"})
  sleep 0.2
done
