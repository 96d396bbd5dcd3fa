#!/usr/bin/env bash
# A stage on a Cloud TPU slice: makes or reuses it, copies this checkout,
# installs it, runs the stage on every worker, follows worker 0, and starts
# again from the last checkpoint when the slice is preempted.
#
#   bash launch_scripts/tpu_pod.sh --name=NAME --zone=ZONE --type=v5litepod-16 \
#        [--project=P] [--version=RUNTIME] [--spot] [--queued] [--slices=N] \
#        [--setup=COMMAND] [--env=NAME]... [--data=DIR] [--restarts=N] \
#        [--delete] [--dry_run] -- \
#        refine_jax.stages.train_reft --config=... --workdir=/mnt/shared/run
#
# What is committed is copied. The workdir lies on a disk that all workers have,
# or in a bucket. The stage runs on when this script or its connection ends; the
# same command then follows it again.
# --setup runs on every worker whenever a stage is started there: it mounts that
# disk, if it is not mounted. --env=HF_TOKEN passes on a variable of this shell
# and shows its value nowhere. --data has the published rows (/mnt/shared/data).
# --queued asks for a queued resource and waits for it; --slices asks for
# several slices that compute together, and needs it.
# A slice that is preempted is made again, and a stage whose workers are lost
# started again, --restarts times (20). --delete gives the slice back at the
# end, also where the stage failed. --dry_run prints every command and runs
# none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

name='' zone='' type='' project='' version='' spot='' queued='' delete='' dry=''
setup='' slices=1 restarts=20 data=/mnt/shared/data
names=()
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --setup=*) setup=${1#*=} ;;
    --env=*) names+=("${1#*=}") ;;
    --restarts=*) restarts=${1#*=} ;;
    --data=*) data=${1#*=} ;;
    --spot) spot=1 ;;
    --queued) queued=1 ;;
    --delete) delete=1 ;;
    --dry_run) dry=1 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,24s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "tpu_pod.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done

say() { echo "tpu_pod.sh: $*" >&2; }
refuse() {
  say "$*"
  exit 2
}

for required in name zone type; do
  if [[ -z ${!required} ]]; then
    refuse "--$required is missing (see --help)"
  fi
done
# shellcheck source=launch_scripts/numbers.sh
source "$here/numbers.sh"
numbers 1 --slices
numbers 0 --restarts
if ((slices > 1)) && [[ ! $queued ]]; then refuse "--slices needs --queued"; fi
for variable in ${names[@]+"${names[@]}"}; do
  if [[ ! $variable =~ ^[A-Za-z_][A-Za-z_0-9]*$ ]]; then
    refuse "--env=NAME, not its value"
  fi
  if [[ -z ${!variable+set} ]]; then refuse "--env=$variable is not set"; fi
done
if ((!$#)); then refuse "which stage? (see --help)"; fi
if [[ -z $version ]]; then
  case $type in
    v4-*) version='tpu-ubuntu2204-base' ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) refuse "--version for $type?" ;;
  esac
fi
# Compiled programs lie beside the workdir, where a new slice finds them.
workdir='' before=''
for word in "$@"; do # a flag has one dash or two, and is one word or two
  case $before in --workdir | -workdir) workdir=$word ;; esac
  case $word in --workdir=* | -workdir=*) workdir=${word#*=} ;; esac
  before=$word
done
cache=\$HOME/.xla
if [[ $workdir ]]; then printf -v cache %q "$(dirname "$workdir")/.xla"; fi
printf -v command '%q ' "$@"
where=(--zone="$zone")
if [[ $project ]]; then where+=(--project="$project"); fi
tpu=(gcloud compute tpus tpu-vm)
request=(gcloud compute tpus queued-resources)
nodes=("$name")
if ((slices > 1)); then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi
alive=-oServerAliveInterval=30
# Seconds between two looks, and how many looks something may take: a worker
# that does not answer, and a slice that is neither ready nor gone.
poll=${REFINE_JAX_POLL:-30}
patience=20
slow=240

# A dry run makes no folder. Its text does, and has $folder for this word.
if [[ $dry ]]; then
  folder=/folder.$$
  echo "folder=\$(mktemp -d)"
else
  folder=$(mktemp -d)
fi
trap 'run rm -rf "$folder"' EXIT
# shellcheck disable=SC2329
interrupted() {
  local end
  printf -v end '%q ' "${tpu[@]}" ssh "${nodes[0]}" "${where[@]}" --worker=all \
    --command='bash pod.sh stop'
  say "a stage that was started goes on; the same command follows it, and" \
    "this ends it: $end"
  exit 130
}
trap interrupted INT TERM

# run COMMAND...: or, in a dry run, prints it as it could be typed.
run() {
  if [[ ! $dry ]]; then
    "$@"
    return
  fi
  local text named="\"\$folder\""
  printf -v text '%q ' "$@"
  echo "${text//"$folder"/$named}"
}

# finish CODE: the end of this script, and of the slice where that is wanted.
finish() {
  if [[ $delete ]]; then
    look_queue
    look
    if [[ $asked$state != ABSENTABSENT ]]; then
      remove || say "$name could not be deleted"
    fi
  fi
  exit "$1"
}

# described COMMAND...: what a describe command prints, ABSENT if there is no
# such thing; a network that is down is given some time. In $found. In a dry run
# all is well.
described() {
  local try
  if [[ $dry ]]; then
    run "$@"
    found=READY
    return
  fi
  for ((try = 0; try < 6; try++)); do
    if found=$("$@" 2>"$folder/error"); then return; fi
    if grep -q 'NOT_FOUND\|was not found' "$folder/error"; then
      found=ABSENT
      return
    fi
    sleep $((poll * try))
  done
  cat "$folder/error" >&2
  say "cannot tell how $name is, and leave it as it is; is gcloud logged in?"
  exit 1
}

# READY, ABSENT, or the first other state of a node; in $state.
look() {
  local node
  for node in "${nodes[@]}"; do
    described "${tpu[@]}" describe "$node" "${where[@]}" \
      --format='value(state)'
    state=$found
    if [[ $state != READY ]]; then return; fi
  done
}

# The state of the queued resource, ABSENT without one; in $asked.
look_queue() {
  asked=ABSENT
  if [[ $queued ]]; then
    described "${request[@]}" describe "$name" "${where[@]}" \
      --format='value(state.state)'
    asked=$found
  fi
}

create() {
  local more=()
  if [[ $spot ]]; then more+=(--spot); fi
  if [[ ! $queued ]]; then
    run "${tpu[@]}" create "$name" "${where[@]}" --accelerator-type="$type" \
      --version="$version" ${more[@]+"${more[@]}"}
    return
  fi
  if ((slices > 1)); then
    more+=(--node-count="$slices" --node-prefix="$name")
  else
    more+=(--node-id="$name")
  fi
  run "${request[@]}" create "$name" "${where[@]}" \
    --accelerator-type="$type" --runtime-version="$version" "${more[@]}"
}

remove() {
  if [[ $queued && $asked != ABSENT ]]; then
    run "${request[@]}" delete "$name" "${where[@]}" --force --quiet
  else
    run "${tpu[@]}" delete "$name" "${where[@]}" --quiet
  fi
}

# try WHAT: create or remove; if that fails ten times in a row, that is it.
failures=0
try() {
  if "$1"; then
    failures=0
  elif ((++failures < 10)); then
    say "could not $1 $name; again in a while"
    sleep $((poll * failures))
  else
    say "could not $1 $name"
    finish 1
  fi
}

# Comes back when the slice is ready.
ensure() {
  local waited=0 failed=0 last=''
  while ((waited < slow)); do
    look_queue
    case $asked in
      ABSENT | ACTIVE) ;;
      FAILED | SUSPENDED)
        say "$name is $asked"
        if [[ $asked == FAILED ]] && ((++failed == 5)); then
          say "the cloud refuses it again and again"
          finish 1
        fi
        try remove
        sleep $((poll * failed))
        continue
        ;;
      *) # It may stand in the queue for as long as it takes.
        if [[ $asked != "$last" ]]; then say "$name is $asked"; fi
        last=$asked
        sleep "$poll"
        continue
        ;;
    esac
    look
    case $state in
      READY) return ;;
      PREEMPTED | TERMINATED | STOPPED | SUSPENDED)
        say "$name is $state"
        try remove
        ;;
      ABSENT)
        if [[ $asked == ABSENT ]]; then
          try create
        elif ((++waited < patience)); then
          sleep "$poll"  # given, and not listed yet
        else
          try remove
          waited=0
        fi
        ;;
      *)
        if [[ $state != "$last" ]]; then say "$name is $state"; fi
        last=$state
        ((++waited))
        sleep "$poll"
        ;;
    esac
  done
  say "$name is $state and stays so"
  finish 1
}

# everywhere COMMAND: on all workers. first COMMAND: on worker 0.
everywhere() {
  local node code=0
  for node in "${nodes[@]}"; do
    run "${tpu[@]}" ssh "$node" "${where[@]}" --worker=all \
      --ssh-flag="$alive" --command="$1" || code=$?
  done
  return "$code"
}
first() {
  run "${tpu[@]}" ssh "${nodes[0]}" "${where[@]}" --worker=0 \
    --ssh-flag="$alive" --command="$1"
}

# The command that writes what the stage sees; to a file, because a command line
# is seen by others. What --env names has no value here: a dry run shows this.
# shellcheck disable=SC2016
environment() {
  local variable
  printf '(umask 077; printf "%%s\\n" '
  printf '%q ' "REFINE_JAX_DATA=$(printf %q "$data")" \
    "JAX_COMPILATION_CACHE_DIR=$cache"
  for variable in ${names[@]+"${names[@]}"}; do
    printf '%s="$(printf %%q "$%s")" ' "$variable" "$variable"
  done
  echo '>"$folder"/pod.env)'
}

# Images of TPU VMs have an older Python than this needs; uv brings one.
install() {
  local archive=$folder/pod.tar
  run cp "$here/tpu_worker.sh" "$folder/pod.sh"
  if [[ $dry ]]; then environment; else eval "$(environment)"; fi
  run git -C "$top" archive --prefix=refine_jax/ --output="$archive" HEAD ||
    return
  run chmod 600 "$archive"
  run tar --append --file="$archive" -C "$folder" pod.sh pod.env || return
  local node
  for node in "${nodes[@]}"; do
    run "${tpu[@]}" scp "$archive" "$node:pod.tar" "${where[@]}" \
      --worker=all --scp-flag="$alive" || return
  done
  if [[ $setup ]]; then everywhere "$setup" || return; fi
  # What may still run there is stopped before its files change.
  everywhere "set -e; if [ -e pod.sh ]; then bash pod.sh stop; fi; \
tar xf pod.tar; rm pod.tar; \
export PATH=\$HOME/.local/bin:\$PATH; \
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh; \
rm -rf venv; uv venv -q --python 3.12 venv; \
uv pip install -q --python venv/bin/python -e './refine_jax[tpu,gcs]'"
}

# The stage on every worker; comes back at once.
start() {
  local order
  printf -v order '%q ' bash pod.sh start "$(date +%s)-$$" "${command% }"
  everywhere "${order% }"
}

# What worker 0 says of the stage, in $said: running COMMAND, ended CODE, gone
# (there was one, or none yet); or nothing if nobody is there.
ask() {
  local order='if [ -e pod.sh ]; then bash pod.sh ask; else echo pod: gone; fi'
  if [[ $dry ]]; then
    first "$order"
  else
    said=$(first "$order" 2>/dev/null </dev/null | sed -n 's/^pod: //p') ||
      said=
  fi
}

# Shows the log until the stage has ended (its code in $code) or this is not
# to be had any more (1).
watch() {
  local silent=0 lines=+1
  while ((silent < patience)); do
    first "bash pod.sh follow $lines" </dev/null || true
    lines=10
    ask
    case $said in
      ended\ *)
        code=${said#ended }
        return
        ;;
      gone)
        say "the stage is gone, and did not say why"
        return 1
        ;;
      running\ *) silent=0 ;;
      *)
        look
        if [[ $state != READY ]]; then return 1; fi
        if ((!silent)); then say "no connection; the slice is well"; fi
        ((++silent))
        ;;
    esac
    sleep "$poll"
  done
  say "nobody answers"
  return 1
}

# Whether the slice stays ready for some looks: that it is taken away may be
# known a while after the stage has ended of it.
stays() {
  local i
  for ((i = 0; i < 6; i++)); do
    look
    if [[ $state != READY ]]; then return 1; fi
    sleep "$poll"
  done
}

if [[ $dry ]]; then
  look_queue
  look
  echo '# If it is not there:'
  create
  echo '# When it is:'
  ask
  install
  start
  first 'bash pod.sh follow +1'
  ask
  finish 0
fi

for ((attempt = 0; attempt <= restarts; attempt++)); do
  if ((attempt)); then
    say "attempt $((attempt + 1))"
    sleep "$poll"
  fi
  ensure
  for again in 1 2 3; do
    ask
    if [[ $said ]]; then break; fi
    sleep "$poll"
  done
  case $said in
    "running ${command% }") say "the stage runs already" ;;
    running\ *) refuse "$name is busy: ${said#running }" ;;
    *)
      # Three times: a new slice's workers may not all answer at once.
      for again in 1 2 3; do
        code=0
        { install && start; } || code=$?
        if ((!code)); then break; fi
        look
        if [[ $state != READY ]]; then break; fi
        say "could not install or start (code $code)"
        if ((again == 3)); then finish "$code"; fi
        sleep "$poll"
      done
      if ((code)); then continue; fi
      ;;
  esac
  if ! watch; then continue; fi
  case $code in
    0) finish 0 ;;
    2) finish 2 ;; # a mistake in the command or config
    143) # saved and told to go
      stays || true
      continue
      ;;
  esac
  say "the stage ended with code $code; does the slice stay?"
  if stays; then
    say "it does; not starting again. What the workers said last:"
    everywhere 'hostname; tail -n 20 pod.log' || true
    finish "$code"
  fi
done
say "gave up after $restarts restarts"
finish 1
