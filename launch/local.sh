#!/usr/bin/env bash
# One machine: checks it, then runs, and continues after a crash. Arguments are those of stedm_jax.main:
#   launch/local.sh --config=configs/catch.py --workdir=runs/catch
# PYTHON=python3      the interpreter
# RESTARTS=3          how often to continue after a crash (an out-of-memory kill, a driver that failed)
# PROCESSES=1         more than one: as many processes on this machine that train together
# DOCTOR=1            0: no check first
set -euo pipefail
set -m # every run gets a process group of its own, so that a signal to this group does not reach it twice
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
restarts=${RESTARTS:-3}
processes=${PROCESSES:-1}

if [[ $# -eq 0 || " $* " == *" --help "* ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "launch/$(basename "$0")"
  exec "$python" -m stedm_jax.main --help
fi

children=()
stopped=0
# shellcheck disable=SC2329 # called by the trap
stop() {
  stopped=1
  kill -TERM "${children[@]}" 2>/dev/null || true
}
trap stop TERM INT

once() {
  local number status=0 one pid port
  port=$((20000 + RANDOM % 20000))
  children=()
  for ((number = 0; number < processes; number++)); do
    if ((processes > 1)); then
      STEDM_COORDINATOR=127.0.0.1:$port STEDM_PROCESSES=$processes STEDM_PROCESS_ID=$number \
        "$python" -m stedm_jax.main "$@" &
    else
      "$python" -m stedm_jax.main "$@" &
    fi
    children+=($!)
  done
  for pid in "${children[@]}"; do
    # A signal ends a wait before the child ends, with a status that is not the child's; the last wait returns that.
    wait "$pid" || true
    while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done
    one=0
    wait "$pid" || one=$?
    ((one == 0)) || status=$one
  done
  return "$status"
}

if [[ ${DOCTOR:-1} != 0 ]]; then
  checked=()
  for word in "$@"; do
    [[ $word == --stage=* || $word == --cells=* || $word == --on_change=* ]] || checked+=("$word")
  done
  "$python" -m stedm_jax.doctor "${checked[@]}"
fi
for ((attempt = 0; ; attempt++)); do
  ((!stopped)) || exit 143 # asked to stop during the check, or between two attempts
  status=0
  once "$@" || status=$?
  # 0: done, or stopped and saved; 2: something that only the user can repair; 130: Ctrl-C.
  if ((stopped || status == 0 || status == 2 || status == 130 || attempt >= restarts)); then
    exit "$status"
  fi
  echo "launch: ended with status $status; continuing from the last checkpoint ($((attempt + 1)) of $restarts)" >&2
  for ((second = 0; second < ${PAUSE:-10} && !stopped; second++)); do sleep 1; done
done
