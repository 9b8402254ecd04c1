//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * life: who starts processes and how long they live, counted by parent, so
 * that a swarm that nobody saw alive still has a name; who sent a signal that
 * ends, stops or continues a process; whom the kernel ended for memory; who
 * froze a cgroup; how a process ended.
 */
#include "kernel.h"
#include "rate.h"

#define SIGNALS ( \
	1ULL << 1 | 1ULL << 2 | 1ULL << 3 | 1ULL << 4 | 1ULL << 6 | 1ULL << 7 | 1ULL << 8 | 1ULL << 9 | 1ULL << 11 | \
	1ULL << 15 | 1ULL << 18 | 1ULL << 19 | 1ULL << 20 | 1ULL << 21 | 1ULL << 22 | 1ULL << 24 | 1ULL << 31)

/* What a process has done as a parent. */
struct parent {
	__u64 start;  /* its start_boottime: tells a pid that is used again */
	__u64 since;  /* when it was first counted */
	__u64 forks;  /* processes */
	__u64 clones; /* threads */
	__u64 execs;  /* of its children */
	__u64 exits;  /* of its children */
	__u64 ran;    /* CPU time of its children's threads that ended within brief_ns */
	__u64 lived;  /* from birth to death, of its children that ended */
	__u32 ppid;
	__u32 unused;
	char comm[TASK_COMM_LEN];
	char parent_comm[TASK_COMM_LEN];
	char exec[TASK_COMM_LEN]; /* what a child became last */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, struct parent);
} parents SEC(".maps");

enum { SIGNAL = 1, OOM = 2, FREEZE = 3, THAW = 4, END = 5 };

struct deed {
	__u64 at;
	__u32 kind;
	__s32 signal;
	__s32 code;   /* siginfo.si_code; 0x80: the kernel itself. END: the exit status */
	__s32 result; /* 0: delivered. END: 1 with a core dump */
	__u32 pid, tid;
	__u32 from_pid, from_tid, from_ppid;
	__u32 from_kernel; /* it was a thread of the kernel */
	char comm[TASK_COMM_LEN];
	char from_comm[TASK_COMM_LEN];
	char from_parent_comm[TASK_COMM_LEN];
	char cgroup[128]; /* END: the last part of its path */
	__u64 lived; /* END: since its birth */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} deeds SEC(".maps");

/* The ends of processes that lived briefly, told in this second. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rate);
} brief_ends SEC(".maps");

/* What lives for longer is seen by others, and its end is not when it ran. */
volatile const __u64 brief_ns = 2000000000;
volatile const __u64 told_most = 500; /* a second and CPU */
/* And of the ends of processes that lived briefly: a compiler run must not take
 * the place of what is rare. */
volatile const __u64 brief_most = 16;
/* mark_victim passes a task since Linux 6.8, and only its pid before. */
volatile const __u8 victim_is_task = 1;

static __always_inline struct parent *parent_of(struct task_struct *p)
{
	__u32 key = p->tgid;
	__u64 start = p->group_leader->start_boottime;
	struct parent *v = bpf_map_lookup_elem(&parents, &key);

	if (v && v->start == start)
		return v;
	struct parent fresh = { .start = start, .since = bpf_ktime_get_ns(), .ppid = p->real_parent->tgid };
	bpf_probe_read_kernel(fresh.comm, sizeof(fresh.comm), p->group_leader->comm);
	bpf_probe_read_kernel(fresh.parent_comm, sizeof(fresh.parent_comm), p->real_parent->group_leader->comm);
	bpf_map_update_elem(&parents, &key, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&parents, &key);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(forked, struct task_struct *parent, struct task_struct *child)
{
	struct parent *v = parent_of(parent);

	if (!v)
		return 0;
	if (child->tgid == parent->tgid) {
		__sync_fetch_and_add(&v->clones, 1);
		return 0;
	}
	__sync_fetch_and_add(&v->forks, 1);
	/* A name that came with an exec, or a parent that is another by now. */
	bpf_probe_read_kernel(v->comm, sizeof(v->comm), parent->group_leader->comm);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(execed, struct task_struct *p)
{
	struct parent *v = parent_of(p->real_parent);

	if (!v)
		return 0;
	__sync_fetch_and_add(&v->execs, 1);
	/* Its comm is the last part of the file's name by now. */
	bpf_probe_read_kernel(v->exec, sizeof(v->exec), p->comm);
	return 0;
}

static __always_inline struct deed *begin(__u32 kind)
{
	struct rate *t = rate_here();
	__u64 now = bpf_ktime_get_ns();
	struct task_struct *from = (struct task_struct *)bpf_get_current_task_btf();
	struct deed *d;

	if (!t || !may_tell(t, now, told_most))
		return 0;
	d = bpf_ringbuf_reserve(&deeds, sizeof(*d), 0);
	if (!d) {
		t->lost++;
		return 0;
	}
	d->at = now;
	d->kind = kind;
	d->signal = d->code = d->result = 0;
	d->pid = d->tid = 0;
	d->lived = 0;
	d->comm[0] = d->cgroup[0] = 0;
	d->from_pid = from->tgid;
	d->from_tid = from->pid;
	d->from_ppid = from->real_parent->tgid;
	d->from_kernel = (from->flags & PF_KTHREAD) != 0;
	bpf_probe_read_kernel(d->from_comm, sizeof(d->from_comm), from->group_leader->comm);
	bpf_probe_read_kernel(d->from_parent_comm, sizeof(d->from_parent_comm), from->real_parent->group_leader->comm);
	return d;
}

static __always_inline void target(struct deed *d, struct task_struct *p)
{
	d->pid = p->tgid;
	d->tid = p->pid;
	bpf_probe_read_kernel(d->comm, sizeof(d->comm), p->group_leader->comm);
}

/* ended tells how a process ended, and whose child it was. */
static __always_inline void ended(struct task_struct *p, __u64 lived)
{
	__u32 zero = 0;
	struct rate *r;
	struct deed *d;
	const char *name;
	int code = p->exit_code;

	if (lived < brief_ns) {
		r = bpf_map_lookup_elem(&brief_ends, &zero);
		if (!r || !may_tell(r, bpf_ktime_get_ns(), brief_most))
			return;
	}
	d = begin(END);
	if (!d)
		return;
	d->signal = code & 0x7f;
	d->code = code >> 8 & 0xff;
	d->result = code >> 7 & 1;
	d->lived = lived;
	target(d, p);
	d->from_pid = p->real_parent->tgid;
	d->from_tid = p->real_parent->pid;
	d->from_ppid = p->real_parent->real_parent->tgid;
	d->from_kernel = 0;
	bpf_probe_read_kernel(d->from_comm, sizeof(d->from_comm), p->real_parent->group_leader->comm);
	bpf_probe_read_kernel(d->from_parent_comm, sizeof(d->from_parent_comm), p->real_parent->real_parent->group_leader->comm);
	name = BPF_CORE_READ(p, cgroups, dfl_cgrp, kn, name);
	if (name)
		bpf_probe_read_kernel_str(d->cgroup, sizeof(d->cgroup), name);
	bpf_ringbuf_submit(d, BPF_RB_NO_WAKEUP);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(exited, struct task_struct *p)
{
	struct parent *v;
	__u64 now = bpf_ktime_get_boot_ns();

	if (p->flags & PF_KTHREAD)
		return 0;
	v = parent_of(p->real_parent);
	if (!v)
		return 0;
	if (now - p->start_boottime < brief_ns)
		__sync_fetch_and_add(&v->ran, p->se.sum_exec_runtime);
	if (p->signal->live.counter != 0)
		return 0;
	__sync_fetch_and_add(&v->exits, 1);
	__sync_fetch_and_add(&v->lived, now - p->group_leader->start_boottime);
	ended(p, now - p->group_leader->start_boottime);
	return 0;
}

SEC("tp_btf/signal_generate")
int BPF_PROG(signalled, int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)
{
	struct deed *d;
	__s32 code = 0;

	if (sig < 0 || sig > 63 || !(1ULL << sig & SIGNALS))
		return 0;
	d = begin(SIGNAL);
	if (!d)
		return 0;
	/* SEND_SIG_NOINFO is 0: from a process; SEND_SIG_PRIV is 1: from the kernel. */
	if ((__u64)info == 1)
		code = 0x80;
	else if (info)
		bpf_probe_read_kernel(&code, sizeof(code), &info->si_code);
	d->signal = sig;
	d->code = code;
	d->result = result;
	target(d, task);
	bpf_ringbuf_submit(d, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/mark_victim")
int oom(__u64 *ctx)
{
	struct task_struct *p = (void *)ctx[0];
	struct deed *d = begin(OOM);

	if (!d)
		return 0;
	if (victim_is_task) {
		bpf_probe_read_kernel(&d->pid, sizeof(d->pid), &p->tgid);
		bpf_probe_read_kernel(&d->tid, sizeof(d->tid), &p->pid);
		bpf_probe_read_kernel(d->comm, sizeof(d->comm), &p->comm);
	} else {
		d->pid = d->tid = (__u32)ctx[0];
	}
	bpf_ringbuf_submit(d, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/cgroup_freeze")
int BPF_PROG(froze, void *cgroup, const char *path)
{
	struct deed *d = begin(FREEZE);

	if (!d)
		return 0;
	bpf_probe_read_kernel_str(d->cgroup, sizeof(d->cgroup), path);
	bpf_ringbuf_submit(d, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/cgroup_unfreeze")
int BPF_PROG(thawed, void *cgroup, const char *path)
{
	struct deed *d = begin(THAW);

	if (!d)
		return 0;
	bpf_probe_read_kernel_str(d->cgroup, sizeof(d->cgroup), path);
	bpf_ringbuf_submit(d, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
