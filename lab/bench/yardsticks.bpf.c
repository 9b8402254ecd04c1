//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * What the scheduler's hooks are measured against: programs that do nothing,
 * which is what any hook costs, and the usual way to trace waits, a hash map
 * of time stamps that every switch writes and every wake-up reads.
 */
#include "../../bpf/kernel.h"

SEC("tp_btf/sched_waking")
int BPF_PROG(empty_waking, struct task_struct *p)
{
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(empty_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u32);
	__type(value, __u64);
} began SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u32);
	__type(value, __u64);
} queued SEC(".maps");

__u64 longest = 0;

SEC("tp_btf/sched_waking")
int BPF_PROG(hash_waking, struct task_struct *p)
{
	__u32 pid = p->pid;
	__u64 now = bpf_ktime_get_ns();
	bpf_map_update_elem(&queued, &pid, &now, BPF_ANY);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(hash_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 pid = prev->pid;
	__u64 now = bpf_ktime_get_ns(), *at;

	bpf_map_update_elem(&began, &pid, &now, BPF_ANY);
	pid = next->pid;
	at = bpf_map_lookup_elem(&began, &pid);
	if (at) {
		if (now - *at > longest)
			longest = now - *at;
		bpf_map_delete_elem(&began, &pid);
	}
	at = bpf_map_lookup_elem(&queued, &pid);
	if (at) {
		if (now - *at > longest)
			longest = now - *at;
		bpf_map_delete_elem(&queued, &pid);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
