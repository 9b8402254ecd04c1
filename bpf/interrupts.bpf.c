//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * interrupts: the time that each CPU spends in the handlers of interrupts, by
 * number, and in softirqs, by vector, and the longest single one of each since
 * user space asked last. What interrupts a softirq is taken from its time.
 *
 * A CPU's own interrupts (its timer, calls from other CPUs) have no number and
 * are not told. No slot is written by two CPUs.
 */
#include "kernel.h"

#define SOFTIRQS 16 /* NR_SOFTIRQS is 10 */

struct handler {
	__u64 ns, count;
	__u64 longest_ns, longest_began; /* user space sets longest_ns back to 0 */
};

/* What a CPU is in, in a cache line of its own. began 0: in none. */
struct here {
	__u64 irq_began;
	__u64 softirq_began;
	__u64 irq_ns;        /* of all time */
	__u64 irq_ns_before; /* when the softirq began */
	__u64 spare[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* irqs_a_cpu for each CPU, when it is loaded */
	__type(key, __u32);
	__type(value, struct handler);
} irqs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* SOFTIRQS for each CPU */
	__type(key, __u32);
	__type(value, struct handler);
} softirqs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* one for each CPU */
	__type(key, __u32);
	__type(value, struct here);
} cpus SEC(".maps");

/* Interrupts with larger numbers share the last slot of their CPU. */
volatile const __u32 irqs_a_cpu = 1;

static __always_inline struct here *here(__u32 cpu)
{
	return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline void add(struct handler *h, __u64 began, __u64 ns)
{
	h->ns += ns;
	h->count++;
	if (ns > h->longest_ns) {
		h->longest_began = began;
		h->longest_ns = ns;
	}
}

SEC("tp_btf/irq_handler_entry")
int irq_begins(__u64 *ctx)
{
	struct here *c = here(bpf_get_smp_processor_id());

	if (c)
		c->irq_began = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/irq_handler_exit")
int irq_ends(__u64 *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id(), irq = (__u32)ctx[0], at;
	struct here *c = here(cpu);
	struct handler *h;
	__u64 began, ns;

	if (!c || !c->irq_began)
		return 0;
	began = c->irq_began;
	ns = bpf_ktime_get_ns() - began;
	c->irq_began = 0;
	c->irq_ns += ns;
	if (irq >= irqs_a_cpu)
		irq = irqs_a_cpu - 1;
	at = cpu * irqs_a_cpu + irq;
	h = bpf_map_lookup_elem(&irqs, &at);
	if (h)
		add(h, began, ns);
	return 0;
}

SEC("tp_btf/softirq_entry")
int softirq_begins(__u64 *ctx)
{
	struct here *c = here(bpf_get_smp_processor_id());

	if (c) {
		c->irq_ns_before = c->irq_ns;
		c->softirq_began = bpf_ktime_get_ns();
	}
	return 0;
}

SEC("tp_btf/softirq_exit")
int softirq_ends(__u64 *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id(), at;
	struct here *c = here(cpu);
	struct handler *h;
	__u64 began, ns, irq_ns;

	if (!c || !c->softirq_began)
		return 0;
	began = c->softirq_began;
	ns = bpf_ktime_get_ns() - began;
	c->softirq_began = 0;
	irq_ns = c->irq_ns - c->irq_ns_before;
	ns -= irq_ns < ns ? irq_ns : ns;
	at = cpu * SOFTIRQS + (ctx[0] & (SOFTIRQS - 1));
	h = bpf_map_lookup_elem(&softirqs, &at);
	if (h)
		add(h, began, ns);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
