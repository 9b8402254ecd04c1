/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How much a family tells: at most so many records in about a second and on one
 * CPU. What is beyond that, and what finds the ring buffer full, is counted.
 */
#ifndef FREEZEFRAME_RATE_H
#define FREEZEFRAME_RATE_H

#include "kernel.h"

struct rate {
	__u64 window; /* 2^30 ns each */
	__u64 told;   /* in this window */
	__u64 lost;   /* of all time */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* as many as CPUs, when it is loaded */
	__type(key, __u32);
	__type(value, struct rate);
} rates SEC(".maps");

static __always_inline struct rate *rate_here(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rates, &cpu);
}

/* may_tell counts a record as told, or as lost. */
static __always_inline bool may_tell(struct rate *r, __u64 now, __u64 most)
{
	if (r->window != now >> 30) {
		r->window = now >> 30;
		r->told = 0;
	}
	if (r->told >= most) {
		r->lost++;
		return false;
	}
	r->told++;
	return true;
}

#endif
