#!/bin/sh
# What `make vm` runs in the machine: what freezeframe sees there, and a few
# faults of the lab. Its disks are files in memory, as the root is with a steady
# clock: the memory of the root's own disk is not given back. Loading the BPF
# programs takes an emulated CPU some seconds.
set -eu
freezeframe check
echo
grep -q cgroup2 /proc/self/mounts || { echo "no cgroup v2 here"; exit 1; }
mkdir -p out
TMPDIR=/dev/shm exec labrun -bin "$(command -v freezeframe)" -misses=false -bystander none -retry 3 -strict -warm 6s -for 12s -out out \
	-only '^(fs\.frozen/log|fs\.file_lock/flock|app\.stopped/sigstop|app\.frozen/freezer|cpu\.cgroup_throttled/sidecar|io\.cgroup_throttled/iops-cut)$' "$@"
