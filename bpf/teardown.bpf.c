//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * teardown: how long the memory of a process that ends takes to be given back.
 * Until that is done, the process keeps its locks, its sockets and its parent
 * waiting. Since Linux 6.16 its exit is told before, and the end of it by
 * exit_mmap; before that only the end can be told, and how large it was.
 */
#include "kernel.h"

struct percpu_counter {
	__s64 count;
} READS;

typedef struct {
	__s64 counter;
} atomic64_t;

struct mm_rss_stat___before_6_2 {
	atomic64_t count[4];
} READS;

struct mm_struct___before_6_2 {
	struct mm_rss_stat___before_6_2 rss_stat;
} READS;

struct mm_struct___rss {
	struct percpu_counter rss_stat[4]; /* MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES */
} READS;

struct signal_struct___rss {
	atomic_t live;
	unsigned long maxrss; /* pages */
} READS;

struct task_struct___mm {
	struct mm_struct___rss *mm;
	struct signal_struct___rss *signal;
} READS;

struct teardown {
	__u64 began, ended; /* began 0: not told by this kernel */
	__u64 pages;        /* resident when it began, else at most */
	__u32 tgid, by;     /* by: who did it, mostly the process itself */
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} teardowns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct teardown);
} dying SEC(".maps");

volatile const __u64 least_pages = 4096; /* smaller ones are felt by nobody */
volatile const __u64 least_ns = 5000000;

static __always_inline __u64 resident(struct mm_struct___rss *mm)
{
	__s64 n = 0;
	if (bpf_core_type_exists(struct mm_rss_stat___before_6_2)) {
		struct mm_struct___before_6_2 *old = (void *)mm;
		n = BPF_CORE_READ(old, rss_stat.count[0].counter) + BPF_CORE_READ(old, rss_stat.count[1].counter) + BPF_CORE_READ(old, rss_stat.count[3].counter);
	} else {
		n = BPF_CORE_READ(mm, rss_stat[0].count) + BPF_CORE_READ(mm, rss_stat[1].count) + BPF_CORE_READ(mm, rss_stat[3].count);
	}
	return n > 0 ? n : 0;
}

static __always_inline void tell(const struct teardown *from)
{
	struct teardown *t = bpf_ringbuf_reserve(&teardowns, sizeof(*t), 0);
	if (!t)
		return;
	__builtin_memcpy(t, from, sizeof(*t));
	bpf_ringbuf_submit(t, BPF_RB_NO_WAKEUP);
}

SEC("tp_btf/sched_process_exit")
int exited(__u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	struct task_struct___mm *q = (void *)p;
	struct teardown t = {};
	struct mm_struct___rss *mm;
	struct signal_struct___rss *signal;
	__u64 key;
	if (p->flags & PF_KTHREAD)
		return 0;
	signal = BPF_CORE_READ(q, signal);
	if (!signal || BPF_CORE_READ(signal, live.counter) != 0)
		return 0; /* not the last of its threads */
	mm = BPF_CORE_READ(q, mm);
	t.tgid = p->tgid;
	t.by = p->tgid;
	bpf_probe_read_kernel(t.comm, sizeof(t.comm), p->group_leader->comm);
	if (!mm) {
		/* It is gone already. */
		t.pages = BPF_CORE_READ(signal, maxrss);
		t.ended = bpf_ktime_get_ns();
		if (t.pages >= least_pages)
			tell(&t);
		return 0;
	}
	t.pages = resident(mm);
	if (t.pages < least_pages)
		return 0;
	t.began = bpf_ktime_get_ns();
	key = (__u64)mm;
	bpf_map_update_elem(&dying, &key, &t, BPF_ANY);
	return 0;
}

SEC("tp_btf/exit_mmap")
int unmapped(__u64 *ctx)
{
	__u64 key = address((void *)ctx[0]);
	struct teardown *t = bpf_map_lookup_elem(&dying, &key);
	if (!t)
		return 0;
	t->ended = bpf_ktime_get_ns();
	t->by = bpf_get_current_task_btf()->tgid;
	if (t->ended - t->began >= least_ns)
		tell(t);
	bpf_map_delete_elem(&dying, &key);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
