#!/usr/bin/env bash
# Sets up a Slurm of two nodes on this machine, runs trainings on it (scripts/check_slurm.py), and takes it down again.
# As root, on Debian or Ubuntu: apt-get install -y slurm-wlm munge. It prints a table, and exits with 1 if a row fails.
#   scripts/check_slurm.sh [lightning|lerobot] [ROW ...]
set -euo pipefail
cd "$(dirname "$0")/.."

for program in munged slurmctld slurmd sbatch; do
    command -v "$program" > /dev/null || { echo "$program is missing: apt-get install -y slurm-wlm munge" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd has to be started by root" >&2; exit 2; }

folder=$(mktemp -d -t hlrp-slurm.XXXXXX)
chmod 711 "$folder"
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

down() {
    for name in ctld n1 n2 munge/munged; do
        [ -f "$folder/$name.pid" ] || continue
        pid=$(cat "$folder/$name.pid")
        kill "$pid" 2> /dev/null || continue
        for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null && sleep 0.1 || break; done
    done
    # In a container the file is mounted, and cannot be replaced.
    grep -v '# hlrp check_slurm$' /etc/hosts > "$folder/hosts" && cat "$folder/hosts" > /etc/hosts
    if [ "${KEEP:-0}" = 1 ]; then echo "kept: $folder" >&2; else rm -rf "$folder"; fi
}
trap down EXIT

# The two nodes are this machine; their names are what the first process is found by.
echo "127.0.0.1 n1 n2 # hlrp check_slurm" >> /etc/hosts

mkdir -p "$folder/munge" "$folder/ctld"
head -c 1024 /dev/urandom > "$folder/munge/key"
chown -R munge: "$folder/munge"
chmod 711 "$folder/munge"
chmod 400 "$folder/munge/key"
socket=$folder/munge/socket

# Processes of a job are found by their cgroup where one can be made, else by their parents.
track=proctrack/linuxproc
if [ -d /sys/fs/cgroup/freezer ] && mkdir /sys/fs/cgroup/freezer/hlrp-check 2> /dev/null; then
    rmdir /sys/fs/cgroup/freezer/hlrp-check
    track=proctrack/cgroup
fi
echo "CgroupPlugin=cgroup/v1" > "$folder/cgroup.conf"

cat > "$SLURM_CONF" << END
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=27817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket,cred_expire=10
CredType=cred/munge
ProctrackType=$track
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=$folder/ctld
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/ctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/ctld.log
SlurmdLogFile=$folder/%n.log
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=30
MinJobAge=3600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=27818 CPUs=8 RealMemory=8000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.2 Port=27819 CPUs=8 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
END

runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$socket" --pid-file="$folder/munge/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --num-threads=10
slurmctld
slurmd -N n1
slurmd -N n2
for _ in $(seq 30); do
    [ "$(sinfo --noheader --states=idle --partition=main --format=%D)" = 2 ] && break
    sleep 1
done
echo "Slurm $(slurmctld -V | cut -d' ' -f2), two nodes on this machine, $track" >&2
python scripts/check_slurm.py "$folder" "$@"
