//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * reclaim: time that threads spend on getting memory: freeing it (direct
 * reclaim, a cgroup's limit), moving it together (compaction), and pausing
 * because too much of it is dirty. Intervals of a millisecond or more through a
 * ring, sums of all by process.
 *
 * A thread does one of them at a time. A pause is told of as it begins, with
 * its length: the kernel wakes nobody from it early but to kill him.
 */
#include "kernel.h"

#define PROCESSES 1024
#define TRIES 8
#define FORGET_NS 60000000000ULL

enum { DIRECT = 0, CGROUP = 1, COMPACTION = 2, DIRTY = 3, KINDS = 4 };

struct backing_dev_info {
	char dev_name[64];
} READS;

struct bdi_writeback {
	struct backing_dev_info *bdi;
} READS;

struct interval {
	__u64 began, ended;
	__u64 pages; /* reclaimed */
	__u32 tid, tgid;
	__u32 kind;
	__s32 order;
	char comm[TASK_COMM_LEN]; /* of the process */
	char device[16]; /* of a pause: "254:0" */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} intervals SEC(".maps");

/* What threads are in now. */
struct began {
	__u64 at;
	__u32 kind;
	__s32 order;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct began);
} begun SEC(".maps");

struct process {
	__u32 tgid;
	__u32 spare;
	__u64 last_ns; /* 0: free */
	__u64 times[KINDS];
	__u64 ns[KINDS];
	__u64 pages; /* reclaimed */
	char comm[TASK_COMM_LEN];
};

struct reclaim {
	struct process processes[PROCESSES];
	__u64 lost; /* intervals that the ring had no room for, sums without a slot */
	__u64 since_jiffies, since_ns; /* where the measuring of a jiffy began */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct reclaim);
} reclaims SEC(".maps");

volatile const __u64 least_ns = 1000000;
volatile const __u64 tick_ns = 0;        /* a jiffy; 0: it has to be measured */
volatile const __u32 pause_argument = 0; /* which of balance_dirty_pages' it is */

static __always_inline struct process *process_for(struct reclaim *r, struct task_struct *p, __u64 now)
{
	__u32 tgid = p->tgid, oldest = 0;
	__u64 age = 0;
	for (int i = 0; i < TRIES; i++) {
		__u32 at = within(hash(tgid) + i, PROCESSES);
		struct process *s = &r->processes[at];
		if (s->tgid == tgid && s->last_ns)
			return s;
		__u64 quiet = s->last_ns ? now - s->last_ns : ~0ULL;
		if (quiet > age) {
			age = quiet;
			oldest = at;
		}
	}
	if (age < FORGET_NS)
		return NULL;
	struct process *s = &r->processes[within(oldest, PROCESSES)];
	__builtin_memset(s, 0, sizeof(*s));
	s->tgid = tgid;
	s->last_ns = now;
	bpf_probe_read_kernel(s->comm, sizeof(s->comm), p->group_leader->comm);
	return s;
}

/* tell adds an interval to its process, and puts a long one into the ring. */
static __always_inline void tell(__u32 kind, __u64 began, __u64 ended, __s32 order, __u64 pages, struct bdi_writeback *wb)
{
	struct task_struct *p = bpf_get_current_task_btf();
	__u32 zero = 0;
	struct reclaim *r = bpf_map_lookup_elem(&reclaims, &zero);
	struct process *s;
	struct interval *i;
	if (!r || ended < began)
		return;
	s = process_for(r, p, ended);
	if (s) {
		if (ended > s->last_ns)
			s->last_ns = ended;
		__sync_fetch_and_add(&s->times[within(kind, KINDS)], 1);
		__sync_fetch_and_add(&s->ns[within(kind, KINDS)], ended - began);
		__sync_fetch_and_add(&s->pages, pages);
	} else {
		__sync_fetch_and_add(&r->lost, 1);
	}
	if (ended - began < least_ns)
		return;
	i = bpf_ringbuf_reserve(&intervals, sizeof(*i), 0);
	if (!i) {
		__sync_fetch_and_add(&r->lost, 1);
		return;
	}
	i->began = began;
	i->ended = ended;
	i->pages = pages;
	i->tid = p->pid;
	i->tgid = p->tgid;
	i->kind = kind;
	i->order = order;
	bpf_probe_read_kernel(i->comm, sizeof(i->comm), p->group_leader->comm);
	__builtin_memset(i->device, 0, sizeof(i->device));
	if (wb)
		bpf_probe_read_kernel_str(i->device, sizeof(i->device), BPF_CORE_READ(wb, bdi, dev_name));
	bpf_ringbuf_submit(i, BPF_RB_NO_WAKEUP);
}

static __always_inline int begin(__u32 kind, __s32 order)
{
	struct began b = {.at = bpf_ktime_get_ns(), .kind = kind, .order = order};
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	if (tid)
		bpf_map_update_elem(&begun, &tid, &b, BPF_ANY);
	return 0;
}

static __always_inline int end(__u32 kind, __u64 pages)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct began *b = bpf_map_lookup_elem(&begun, &tid);
	if (!b || b->kind != kind)
		return 0;
	tell(kind, b->at, bpf_ktime_get_ns(), b->order, pages, NULL);
	bpf_map_delete_elem(&begun, &tid);
	return 0;
}

/* kcompactd and kswapd do it so that nobody has to wait. */
static __always_inline bool in_background(void)
{
	return bpf_get_current_task_btf()->flags & PF_KTHREAD;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int direct_begin(__u64 *ctx)
{
	return begin(DIRECT, (__s32)ctx[0]);
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int direct_end(__u64 *ctx)
{
	return end(DIRECT, ctx[0]);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int cgroup_begin(__u64 *ctx)
{
	return begin(CGROUP, (__s32)ctx[0]);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int cgroup_end(__u64 *ctx)
{
	return end(CGROUP, ctx[0]);
}

/* Each zone that is compacted; the pages are the request's. */
SEC("tp_btf/mm_compaction_begin")
int compaction_begin(__u64 *ctx)
{
	return in_background() ? 0 : begin(COMPACTION, -1);
}

SEC("tp_btf/mm_compaction_end")
int compaction_end(__u64 *ctx)
{
	return in_background() ? 0 : end(COMPACTION, 0);
}

/* jiffy is the length of one, 0 while it is not known well enough. */
static __always_inline __u64 jiffy(__u64 now)
{
	__u32 zero = 0;
	struct reclaim *r;
	__u64 n, jiffies;
	if (tick_ns)
		return tick_ns;
	r = bpf_map_lookup_elem(&reclaims, &zero);
	if (!r)
		return 0;
	jiffies = bpf_jiffies64();
	if (!r->since_jiffies) {
		r->since_ns = now;
		r->since_jiffies = jiffies;
	}
	n = jiffies - r->since_jiffies;
	return n < 20 ? 0 : (now - r->since_ns) / n;
}

SEC("tp_btf/balance_dirty_pages")
int dirty_pause(__u64 *ctx)
{
	__s64 pause;
	__u64 now;
	/* Up to 6.13 the limits stood there one by one, since then as one. The
	 * verifier wants offsets that are constants. */
	if (pause_argument == 10)
		asm volatile("%0 = *(u64 *)(%1 + 80)" : "=r"(pause) : "r"(ctx));
	else if (pause_argument == 6)
		asm volatile("%0 = *(u64 *)(%1 + 48)" : "=r"(pause) : "r"(ctx));
	else
		return 0;
	if (pause <= 0)
		return 0; /* it goes on at once */
	now = bpf_ktime_get_ns();
	tell(DIRTY, now, now + (__u64)pause * jiffy(now), 0, 0, (struct bdi_writeback *)ctx[0]);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
