//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * timers: a timer on each CPU, and how late it fired. It is an interrupt, so no
 * task delays it, of whatever priority: late is a CPU that had its interrupts
 * off or was not running at all. It fires in the very moment in which they are
 * on again, so that what it interrupts is what had them off.
 */
#include "kernel.h"

#define FRAMES 24

struct beat {
	__u64 last;
	__u64 fired;
	__u64 late;  /* how often */
	__u64 worst; /* ns, of all time */
};

struct late {
	__u64 due, fired;
	__u32 cpu;
	__u32 tid, tgid;
	__u32 stack_bytes;
	char comm[TASK_COMM_LEN];
	__u64 stack[FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct beat);
} beats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} lates SEC(".maps");

volatile const __u64 period_ns = 100000000;
volatile const __u64 late_least_ns = 10000000;

SEC("perf_event")
int beat(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0;
	struct beat *b = bpf_map_lookup_elem(&beats, &zero);
	__u64 now = bpf_ktime_get_ns(), due;
	struct late *l;
	__u64 id;
	long n;

	if (!b)
		return 0;
	b->fired++;
	due = b->last + period_ns;
	/* On some machines a CPU that idles skips beats, and the next one is on
	 * time again: it keeps to the grid of the periods. One that was held up
	 * fires in the moment in which it no longer is, wherever that lies. */
	if (!b->last || now < due + late_least_ns || (now - b->last) % period_ns < late_least_ns) {
		b->last = now;
		return 0;
	}
	b->last = now;
	b->late++;
	if (now - due > b->worst)
		b->worst = now - due;
	l = bpf_ringbuf_reserve(&lates, sizeof(*l), 0);
	if (!l)
		return 0;
	id = bpf_get_current_pid_tgid();
	l->due = due;
	l->fired = now;
	l->cpu = bpf_get_smp_processor_id();
	l->tid = (__u32)id;
	l->tgid = id >> 32;
	bpf_get_current_comm(l->comm, sizeof(l->comm));
	n = bpf_get_stack(ctx, l->stack, sizeof(l->stack), 0);
	l->stack_bytes = n > 0 ? n : 0;
	bpf_ringbuf_submit(l, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
