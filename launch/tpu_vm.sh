#!/usr/bin/env bash
# A TPU VM or a pod of them, with gcloud on your own machine.
#   launch/tpu_vm.sh create NAME ZONE TYPE           requests a spot pod (v5litepod-16, v5p-128) and waits until it is there
#   launch/tpu_vm.sh setup  NAME ZONE                copies this project to every host and installs it
#   launch/tpu_vm.sh run    NAME ZONE ARGUMENTS...   starts the run on every host; the log is stedm.log on each
#   launch/tpu_vm.sh log    NAME ZONE                follows the log of the first host
#   launch/tpu_vm.sh stop   NAME ZONE                SIGTERM: the run saves and ends
#   launch/tpu_vm.sh keep   NAME ZONE TYPE ARGUMENTS...   as create, setup and run, and again whenever the pod is taken away
# All hosts need the same workdir and data: a Filestore share mounted at the same place (MOUNT=HOST:/SHARE, at /mnt/stedm).
# RUNTIME=v2-alpha-tpuv5-lite      image of the hosts; v2-alpha-tpuv5 for v5p
# shellcheck disable=SC2016 # it is the hosts that expand what is in single quotes
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,10s/^# \{0,1\}//p' "launch/$(basename "$0")" >&2
  exit 2
}
(($# >= 3)) || usage
verb=$1 name=$2 zone=$3
shift 3

everywhere() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

state() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)' 2>/dev/null || true
}

create() {
  local type=$1 now
  gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
    --accelerator-type="$type" --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" --spot
  until now=$(state) && [[ $now == ACTIVE ]]; do
    if [[ $now == FAILED ]]; then
      echo "launch: the request for $name failed" >&2
      exit 1
    fi
    echo "launch: $name is ${now:-requested}" >&2
    sleep 30
  done
}

setup() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$name:stedm.tar.gz" --zone="$zone" --worker=all
  rm -f "$archive"
  everywhere "mkdir -p stedm && tar -xzf stedm.tar.gz -C stedm && python3 -m venv stedm/venv &&
    stedm/venv/bin/pip install --quiet -e 'stedm[tpu]'"
  if [[ -n ${MOUNT:-} ]]; then
    everywhere "sudo mkdir -p /mnt/stedm && (mountpoint -q /mnt/stedm || sudo mount -t nfs -o vers=4.1 '$MOUNT' /mnt/stedm)"
  fi
}

run() {
  local words
  printf -v words ' %q' "$@"
  everywhere "rm -f stedm.status; cd stedm
    nohup bash -c 'venv/bin/python -m stedm_jax.main \"\$@\" & echo \$! > ../stedm.pid; wait \$!; echo \$? > ../stedm.status' \
      run$words > ../stedm.log 2>&1 < /dev/null &"
}

# What every host says of its run: a status, or "runs"; nothing where a host cannot be reached.
statuses() {
  everywhere 'cat stedm.status 2>/dev/null || echo runs' 2>/dev/null | sort -u | paste -sd ' ' - || true
}

case $verb in
  create) create "${1:?the type of the pod is missing}" ;;
  setup) setup ;;
  run) run "$@" ;;
  log) gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=0 --command='tail -n 50 -f stedm.log' ;;
  stop) everywhere 'kill -TERM "$(cat stedm.pid)"' ;;
  keep)
    type=${1:?the type of the pod is missing}
    shift
    while :; do
      create "$type"
      setup
      run "$@"
      # Only a pod that is known to be gone is given up; one that cannot be reached for a while may still run.
      until [[ $(state) =~ ^(SUSPENDING|SUSPENDED|FAILED)$ ]]; do
        sleep "${PAUSE:-60}"
        words=$(statuses)
        if [[ -n $words && $words != *runs* ]]; then
          echo "launch: the run has ended with status $words; see launch/tpu_vm.sh log $name $zone" >&2
          [[ $words == 0 ]]
          exit
        fi
      done
      echo "launch: $name was taken away; requesting another" >&2
      gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
    done
    ;;
  *) usage ;;
esac
