#!/usr/bin/env bash
# A Slurm of two nodes on this machine's loopback, for tests:
#   scripts/slurm_on_loopback.sh
# prints SLURM_CONF=FILE once jobs can be submitted, and ends, leaving nothing behind, when its stdin is closed.
# Needs root, and Debian's slurmctld, slurmd, slurm-client and munge.
set -euo pipefail

folder=$(mktemp -d "${TMPDIR:-/tmp}/slurm.XXXXXX")
# slurmd refuses folders that others may not read.
chmod 755 "$folder"
mkdir -p "$folder"/{state,munge,n1,n2}
conf=$folder/slurm.conf

# Daemons take a moment to go; the folder stays until they have.
cleanup() {
  trap - EXIT INT TERM
  for pid in "$folder"/*.pid; do [ -s "$pid" ] && kill "$(cat "$pid")" 2>/dev/null; done
  for _ in $(seq 100); do
    pgrep -f "$folder" >/dev/null || break
    sleep 0.1
  done
  pkill -KILL -f "$folder" || true
  rm -rf "$folder"
}
trap cleanup EXIT INT TERM

(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --force --key-file="$folder/munge.key" --socket="$folder/munge/socket" --pid-file="$folder/munge.pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
host=$(hostname -s)
cat >"$conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0
KillWait=5
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=1
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$conf
slurmctld -f "$conf"
slurmd -f "$conf" -N n1
slurmd -f "$conf" -N n2
for _ in $(seq 100); do
  [ "$(sinfo --noheader --nodes=n1,n2 --states=idle --format=%D 2>/dev/null)" = 2 ] && break
  sleep 0.2
done
if [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" != 2 ]; then
  echo "the nodes did not come up" >&2
  tail -n 5 "$folder"/*.log >&2
  exit 1
fi
echo "SLURM_CONF=$conf"
cat >/dev/null
