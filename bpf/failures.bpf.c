//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * failures: system calls that fail with an error that tells of a limit, counted
 * by process, call and error. Where something is attached to sys_exit every
 * system call of the machine goes the kernel's slower way out, so this is done
 * only while something stalls: a call that does not fail costs a compare more.
 */
#include "kernel.h"
#include "rate.h"

#define ERRNOS 256
#define CALLS 512

struct failing {
	__u32 tgid;
	__u16 call;
	__u16 error;
};

struct failed {
	__u64 count;
	__u64 first, last;
	__u32 uid; /* the real one, by which the kernel keeps limits of users */
	__u32 unused;
	char comm[TASK_COMM_LEN]; /* of the process */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 512);
	__type(key, struct failing);
	__type(value, struct failed);
} failures SEC(".maps");

/* The kinds of limit that an error may tell of, and those of which a call does:
 * EAGAIN of clone is a limit, of read it is none. */
volatile const __u8 errors[ERRNOS] = {};
volatile const __u8 calls[CALLS] = {};

struct thread_info___x86 {
	__u32 status;
} READS;

struct thread_info___arm64 {
	unsigned long flags;
} READS;

struct task_struct___x86 {
	struct thread_info___x86 thread_info;
} READS;

struct task_struct___arm64 {
	struct thread_info___arm64 thread_info;
} READS;

#define TS_COMPAT 2        /* arch/x86/include/asm/thread_info.h */
#define TIF_32BIT (1 << 22) /* arch/arm64/include/asm/thread_info.h */

/* number is that of the call that returns; past all for those of 32 bits, which
 * are counted otherwise. */
static __always_inline __u64 number(void *regs, struct task_struct *p)
{
	if (bpf_core_field_exists(((struct pt_regs___x86 *)0)->orig_ax)) {
		if (((struct task_struct___x86 *)p)->thread_info.status & TS_COMPAT)
			return CALLS;
		return ((struct pt_regs___x86 *)regs)->orig_ax;
	}
	if (bpf_core_field_exists(((struct pt_regs___arm64 *)0)->syscallno)) {
		if (((struct task_struct___arm64 *)p)->thread_info.flags & TIF_32BIT)
			return CALLS;
		return (__u32)((struct pt_regs___arm64 *)regs)->syscallno;
	}
	return CALLS;
}

static __always_inline void describe(struct failed *f, struct task_struct *p, __u64 now)
{
	f->first = now;
	f->uid = (__u32)bpf_get_current_uid_gid();
	bpf_probe_read_kernel(f->comm, sizeof(f->comm), p->group_leader->comm);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(call_returns, void *regs, long ret)
{
	struct task_struct *p;
	struct failing k = {};
	struct failed *f, fresh = {};
	struct rate *t;
	__u64 error = -ret, nr, now;
	__u8 kinds;

	if (error >= ERRNOS)
		return 0;
	kinds = errors[within(error, ERRNOS)];
	if (!kinds)
		return 0;
	p = (struct task_struct *)bpf_get_current_task_btf();
	nr = number(regs, p);
	if (nr >= CALLS || !(kinds & calls[within(nr, CALLS)]))
		return 0;
	k.tgid = p->tgid;
	k.call = nr;
	k.error = error;
	now = bpf_ktime_get_ns();
	f = bpf_map_lookup_elem(&failures, &k);
	if (!f) {
		fresh.count = 1;
		fresh.last = now;
		describe(&fresh, p, now);
		if (!bpf_map_update_elem(&failures, &k, &fresh, BPF_NOEXIST))
			return 0;
		f = bpf_map_lookup_elem(&failures, &k); /* another thread was first */
		if (!f) {
			t = rate_here();
			if (t)
				t->lost++;
			return 0;
		}
	}
	if (!f->first) /* the first on this CPU */
		describe(f, p, now);
	__sync_fetch_and_add(&f->count, 1); /* another thread may come in between */
	f->last = now;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
