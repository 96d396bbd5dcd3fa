#!/usr/bin/env bash
# One stage on a worker of a TPU slice. tpu_pod.sh copies this to every
# worker's home as pod.sh, pod.env beside it, and calls it there:
#
#   pod.sh start TOKEN COMMAND   starts it; a repeated order is none
#   pod.sh follow LINE           its log from there on, until it ends
#   pod.sh ask                   running COMMAND, ended CODE, or gone
#   pod.sh stop                  ends it: SIGTERM, and SIGKILL after 5 minutes
#
# The stage has a session of its own, so that it outlives the connection.
# pod.pid, pod.token and pod.command say what was started, pod.log what it
# says, pod.code how it ended.
cd "$HOME" || exit
pid=$(cat pod.pid 2>/dev/null)
running() {
  [[ $pid ]] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null |
    grep -q 'pod.sh run'
}
stop() {
  local i
  for ((i = 0; i < 300; i++)); do
    running || return 0
    ((i)) || kill -TERM -- "-$pid"
    sleep 1
  done
  kill -KILL -- "-$pid"
}
case $1 in
  start)
    if running && [[ $(cat pod.token) == "$2" ]]; then exit; fi
    stop
    mv -f pod.log pod.log.before 2>/dev/null
    rm -f pod.code
    echo "$2" >pod.token
    echo "$3" >pod.command
    nohup setsid bash pod.sh run "$3" >pod.log 2>&1 </dev/null &
    echo $! >pod.pid
    ;;
  run) # what start leaves behind
    trap : TERM # the stage's; this waits for its code
    set -a
    # shellcheck source=/dev/null
    . ./pod.env
    set +a
    cd refine_jax || exit
    eval "../venv/bin/python -m $2 --distributed"
    echo $? >../pod.code
    ;;
  follow)
    if running; then tail -s 0.3 -n "$2" -F --pid="$pid" pod.log 2>/dev/null
    else tail -n "$2" pod.log; fi
    ;;
  ask)
    if running; then echo "pod: running $(cat pod.command)"
    elif [[ -s pod.code ]]; then echo "pod: ended $(cat pod.code)"
    else echo "pod: gone"; fi
    ;;
  stop) stop ;;
esac
