//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * waits: every wait of a thread over a threshold, when it is over: how long it
 * slept, where and who woke it; how long it then stood in a run queue, and
 * who had the CPU. And every stretch on a CPU that nobody interrupted.
 *
 * No stamp is written while all is well. The scheduler keeps all that is
 * needed in the task itself, in the time of its run queues (rq->clock):
 *
 *   sched_info.last_arrival                  when it last got a CPU
 *   se.sum_exec_runtime - se.prev_sum_...    how long it ran then (fair tasks)
 *   sched_info.last_queued                   since when it stands in line
 *
 * so that a sleep began at last_arrival + that time. This is not the time of
 * bpf_ktime_get_ns: the difference is taken anew every few milliseconds, at a
 * switch, when rq->clock is fresh.
 */
#include "kernel.h"
#include "rate.h"
#include "where.h"

#define FRAMES 32

enum { SLEPT = 1, QUEUED = 2, RAN = 3 };

struct wait {
	__u64 began, ended;
	__u64 start; /* of the thread, CLOCK_BOOTTIME */
	__u64 inode;
	__u32 tid, tgid;
	__u32 other_tid, other_tgid;
	__u32 state;
	__s32 syscall;
	__u32 device; /* of the inode, as s_dev */
	__u16 mode;   /* of the inode */
	__u8 kind;
	__u8 cpu;
	__u16 prio;
	__u16 stack_bytes;
	__u16 waker_stack_bytes;
	__u16 other_prio;
	char comm[TASK_COMM_LEN];
	char other_comm[TASK_COMM_LEN];
	char name[32]; /* last part of the file's path */
	__u64 stack[FRAMES];
	__u64 waker_stack[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} waits SEC(".maps");

volatile const __u64 slept_least_ns = 5000000;  /* uninterruptible */
volatile const __u64 idled_least_ns = 20000000; /* interruptible, stopped */
volatile const __u64 queued_least_ns = 5000000;
volatile const __u64 ran_least_ns = 20000000;
volatile const __u64 told_most = 2000; /* a second and CPU */

/* 1 while a stall is open or suspected: ordinary sleeps are told as well. */
__u32 stalled = 0;

/* bpf_ktime_get_ns - rq->clock, taken anew every four milliseconds; and when.
 * The run queues' clocks are one where the CPUs' are (sched_clock_stable). */
__u64 monotonic = 0;
__u64 adjusted = 0;
#define ADJUST_SHIFT 22

/* record reserves a record, within the rate. */
static __always_inline struct wait *record(__u64 now)
{
	struct rate *r = rate_here();
	struct wait *w;

	if (!r || !may_tell(r, now, told_most))
		return NULL;
	w = bpf_ringbuf_reserve(&waits, sizeof(*w), 0);
	if (!w) {
		r->lost++;
		return NULL;
	}
	w->cpu = bpf_get_smp_processor_id();
	w->state = 0;
	w->syscall = -1;
	w->inode = 0;
	w->device = 0;
	w->mode = 0;
	w->name[0] = 0;
	w->stack_bytes = 0;
	w->waker_stack_bytes = 0;
	return w;
}

static __always_inline void who(struct wait *w, struct task_struct *p)
{
	w->tid = p->pid;
	w->tgid = p->tgid;
	w->start = p->start_boottime;
	w->prio = p->prio;
	bpf_probe_read_kernel(w->comm, sizeof(w->comm), p->comm);
}

static __always_inline void other(struct wait *w, struct task_struct *p)
{
	w->other_tid = p->pid;
	w->other_tgid = p->tgid;
	w->other_prio = p->prio;
	bpf_probe_read_kernel(w->other_comm, sizeof(w->other_comm), p->comm);
}

/* where tells the system call that a task sleeps in, and on which file. */
static __always_inline void where(struct wait *w, struct task_struct *p)
{
	struct open_file f;
	__u64 first;

	w->syscall = system_call(p, &first);
	if (w->syscall < 0 || !open_file(p, first, &f))
		return;
	w->inode = f.inode;
	w->mode = f.mode;
	w->device = f.device;
	bpf_probe_read_kernel_str(w->name, sizeof(w->name), f.name);
}

static __always_inline void stack(struct wait *w, struct task_struct *p)
{
	long n = bpf_get_task_stack(p, w->stack, sizeof(w->stack), 0);
	w->stack_bytes = n > 0 ? n : 0;
}

static __always_inline void tell_slept(void *ctx, struct task_struct *p, __u32 state)
{
	__u64 now, since;
	struct wait *w;
	long n;

	if (idle_kthread(state) || p->on_cpu || !adjusted)
		return;
	if (!(state & TASK_UNINTERRUPTIBLE) && (p->flags & PF_KTHREAD))
		return;
	now = bpf_ktime_get_ns();
	since = slept_since(p) + monotonic;
	if ((__s64)(now - since) < (__s64)(state & TASK_UNINTERRUPTIBLE ? slept_least_ns : idled_least_ns))
		return;
	w = record(now);
	if (!w)
		return;
	w->kind = SLEPT;
	w->began = since;
	w->ended = now;
	w->state = state;
	who(w, p);
	other(w, (struct task_struct *)bpf_get_current_task_btf());
	where(w, p);
	stack(w, p);
	if (w->other_tid) {
		/* It tells whether the waker meant it or was merely interrupted. */
		n = bpf_get_stack(ctx, w->waker_stack, sizeof(w->waker_stack), 0);
		w->waker_stack_bytes = n > 0 ? n : 0;
	}
	bpf_ringbuf_submit(w, BPF_RB_NO_WAKEUP);
}

/* The sleeper is about to be woken by the current task, or by an interrupt
 * that came while it ran. Most sleeps are ordinary ones, and told only while
 * a stall is on: this must be quick to see. */
SEC("tp_btf/sched_waking")
int BPF_PROG(waking, struct task_struct *p)
{
	__u32 state = task_state(p);

	if ((state & TASK_UNINTERRUPTIBLE) || (stalled && state))
		tell_slept(ctx, p, state);
	return 0;
}

static __always_inline void tell_switch(__u8 kind, __u64 began, __u64 ended, struct task_struct *p, struct task_struct *o)
{
	__u64 now = bpf_ktime_get_ns();
	struct wait *w = record(now);

	if (!w)
		return;
	w->kind = kind;
	w->began = now - (ended - began);
	w->ended = now;
	who(w, p);
	other(w, o);
	bpf_ringbuf_submit(w, BPF_RB_NO_WAKEUP);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switched, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u64 clock = rq_of(next)->clock, since;

	if (clock >> ADJUST_SHIFT != adjusted) {
		adjusted = clock >> ADJUST_SHIFT;
		monotonic = bpf_ktime_get_ns() - clock;
	}
	/* Neither the idle task nor one that was never queued has the moment; a
	 * moment that is after the clock is another CPU's, by a little. */
	since = prev->sched_info.last_arrival;
	if ((__s64)(clock - since) >= (__s64)ran_least_ns && since && prev->pid)
		tell_switch(RAN, since, clock, prev, next);
	since = next->sched_info.last_queued;
	if ((__s64)(clock - since) >= (__s64)queued_least_ns && since && next->pid)
		tell_switch(QUEUED, since, clock, next, prev);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
