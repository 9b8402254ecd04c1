#!/bin/sh
# Faults that need systemd's units, the device mapper, netem, an NFS server or a
# host that stops the machine; the victims are units, and have to be named as
# such. The last needs a clock that runs on while the machine is stopped: not
# -steady. After its server is there again an NFS client tries every few seconds:
# freezeframe watches for longer than elsewhere.
set -eu
grep -q cgroup2 /proc/self/mounts || { echo "no cgroup v2 here"; exit 1; }
mkdir -p out
export FFLAB_HOST=1
TMPDIR=/dev/shm exec labrun -bin "$(command -v freezeframe)" -misses="${MISSES:-false}" -bystander none -retry 3 -strict -out out -warm 12s -for "${2:-24s}" \
	-only "${1:-unit-quota|cgroup_high/unit|dm-delay|dm-suspend|netem|nfs}"
