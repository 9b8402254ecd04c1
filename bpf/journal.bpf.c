//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * journal: commits of ext4's journal (jbd2) with their phases, and who fills
 * it. A commit's phases follow each other:
 *
 *   locking    no new handle may join; those that are open must end
 *   flushing   the data of files that must be on disk before (data=ordered)
 *   logging    the journal's own blocks
 *
 * Who changed metadata is told by every handle that ends.
 */
#include "kernel.h"

#define JOURNALS 64
#define USERS 512
#define TRIES 8
#define FORGET_NS 60000000000ULL

struct block_device {
	__u32 bd_dev;
} READS;

struct journal_s {
	struct block_device *j_fs_dev;
} READS;

struct transaction_s {
	int t_tid;
} READS;

struct transaction_run_stats_s {
	unsigned long rs_request_delay; /* jiffies */
	__u32 rs_handle_count;
	__u32 rs_blocks;
	__u32 rs_blocks_logged;
} READS;

struct commit {
	__u64 began, locking, flushing, logging, ended;
	__u32 dev, tid; /* of the transaction */
	__u32 handles, blocks, logged;
	__u32 request_delay; /* jiffies from when it was asked for to when it began */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} commits SEC(".maps");

struct journal {
	__u32 dev; /* 0: free */
	__u32 checkpointer; /* process that last had to make room */
	struct commit now; /* began 0: none */
	__u64 commits, commit_ns, checkpoints;
	char checkpointer_comm[TASK_COMM_LEN];
};

struct user {
	__u32 dev, tgid;
	__u64 last_ns; /* 0: free */
	__u64 handles, syncs, blocks;
	char comm[TASK_COMM_LEN];
};

struct journals {
	struct journal journals[JOURNALS];
	struct user users[USERS];
	__u64 lost;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct journals);
} states SEC(".maps");

static __always_inline struct journals *state(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&states, &zero);
}

static __always_inline struct journal *journal_for(struct journals *s, __u32 dev)
{
	for (int i = 0; i < TRIES; i++) {
		struct journal *j = &s->journals[within(hash(dev) + i, JOURNALS)];
		if (j->dev == dev)
			return j;
		if (!j->dev) {
			j->dev = dev;
			return j;
		}
	}
	return NULL;
}

static __always_inline struct journal *journal_of(struct journal_s *journal)
{
	struct journals *s = state();
	__u32 dev = BPF_CORE_READ(journal, j_fs_dev, bd_dev);
	return s && dev ? journal_for(s, dev) : NULL;
}

SEC("tp_btf/jbd2_start_commit")
int start_commit(__u64 *ctx)
{
	struct journal *j = journal_of((struct journal_s *)ctx[0]);
	struct transaction_s *t = (struct transaction_s *)ctx[1];
	if (!j)
		return 0;
	__builtin_memset(&j->now, 0, sizeof(j->now));
	j->now.dev = j->dev;
	j->now.tid = t->t_tid;
	j->now.began = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/jbd2_commit_locking")
int commit_locking(__u64 *ctx)
{
	struct journal *j = journal_of((struct journal_s *)ctx[0]);
	if (j)
		j->now.locking = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/jbd2_commit_flushing")
int commit_flushing(__u64 *ctx)
{
	struct journal *j = journal_of((struct journal_s *)ctx[0]);
	if (j)
		j->now.flushing = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/jbd2_commit_logging")
int commit_logging(__u64 *ctx)
{
	struct journal *j = journal_of((struct journal_s *)ctx[0]);
	if (j)
		j->now.logging = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/jbd2_run_stats")
int run_stats(__u64 *ctx)
{
	struct transaction_run_stats_s *stats = (struct transaction_run_stats_s *)ctx[2];
	struct journals *s = state();
	struct journal *j = s ? journal_for(s, (__u32)ctx[0]) : NULL;
	if (!j)
		return 0;
	j->now.handles = BPF_CORE_READ(stats, rs_handle_count);
	j->now.blocks = BPF_CORE_READ(stats, rs_blocks);
	j->now.logged = BPF_CORE_READ(stats, rs_blocks_logged);
	j->now.request_delay = BPF_CORE_READ(stats, rs_request_delay);
	return 0;
}

SEC("tp_btf/jbd2_end_commit")
int end_commit(__u64 *ctx)
{
	struct journal *j = journal_of((struct journal_s *)ctx[0]);
	struct journals *s = state();
	struct commit *c;
	__u64 now;
	if (!j || !s || !j->now.began)
		return 0;
	now = bpf_ktime_get_ns();
	__sync_fetch_and_add(&j->commits, 1);
	__sync_fetch_and_add(&j->commit_ns, now - j->now.began);
	c = bpf_ringbuf_reserve(&commits, sizeof(*c), 0);
	if (c) {
		__builtin_memcpy(c, &j->now, sizeof(*c));
		c->ended = now;
		bpf_ringbuf_submit(c, BPF_RB_NO_WAKEUP);
	} else {
		__sync_fetch_and_add(&s->lost, 1);
	}
	j->now.began = 0;
	return 0;
}

/* Room in the journal is made by whoever wants to change something. */
SEC("tp_btf/jbd2_checkpoint")
int checkpoint(__u64 *ctx)
{
	struct journal *j = journal_of((struct journal_s *)ctx[0]);
	struct task_struct *p = bpf_get_current_task_btf();
	if (!j)
		return 0;
	__sync_fetch_and_add(&j->checkpoints, 1);
	j->checkpointer = p->tgid;
	bpf_probe_read_kernel(j->checkpointer_comm, TASK_COMM_LEN, p->group_leader->comm);
	return 0;
}

SEC("tp_btf/jbd2_handle_stats")
int handle_stats(__u64 *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	__u32 dev = (__u32)ctx[0], tgid = p->tgid, oldest = 0;
	__s32 sync = (__s32)ctx[5], blocks = (__s32)ctx[7];
	struct journals *s = state();
	struct user *u = NULL;
	__u64 now = bpf_ktime_get_ns(), age = 0;
	if (!s)
		return 0;
	for (int i = 0; i < TRIES; i++) {
		__u32 at = within(hash((__u64)dev << 32 | tgid) + i, USERS);
		struct user *x = &s->users[at];
		if (x->dev == dev && x->tgid == tgid && x->last_ns) {
			u = x;
			break;
		}
		__u64 quiet = x->last_ns ? now - x->last_ns : ~0ULL;
		if (quiet > age) {
			age = quiet;
			oldest = at;
		}
	}
	if (!u) {
		if (age < FORGET_NS) {
			__sync_fetch_and_add(&s->lost, 1);
			return 0;
		}
		u = &s->users[within(oldest, USERS)];
		__builtin_memset(u, 0, sizeof(*u));
		u->dev = dev;
		u->tgid = tgid;
		bpf_probe_read_kernel(u->comm, TASK_COMM_LEN, p->group_leader->comm);
	}
	u->last_ns = now;
	__sync_fetch_and_add(&u->handles, 1);
	if (sync)
		__sync_fetch_and_add(&u->syncs, 1);
	if (blocks > 0)
		__sync_fetch_and_add(&u->blocks, blocks);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
