//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * locks: waits for the kernel's sleeping locks (mutex, rwsem, semaphore) over a
 * threshold, with who held the lock when the wait began. Those that are still
 * waiting can be read at any time.
 *
 * Spinning is not told: it is over before it could be.
 */
#include "kernel.h"
#include "rate.h"

#define FRAMES 24

/* include/trace/events/lock.h */
#define LCB_F_SPIN (1U << 0)
#define LCB_F_READ (1U << 1)
#define LCB_F_WRITE (1U << 2)
#define LCB_F_RT (1U << 3)
#define LCB_F_PERCPU (1U << 4)
#define LCB_F_MUTEX (1U << 5)

/* The low bits of an owner are not of its address: MUTEX_FLAGS, and for a
 * rwsem RWSEM_READER_OWNED and RWSEM_NONSPINNABLE. */
#define OWNER_FLAGS 7ULL
#define RWSEM_READER_OWNED 1ULL

struct waiting {
	__u64 began;
	__u64 lock;
	__u32 flags; /* LCB_F_... */
	__u32 tgid;
	__u32 holder_tid, holder_tgid; /* 0: not known */
	__u32 address_space_of; /* the process whose mmap_lock it is; 0: another lock */
	__u32 holder_reads;     /* the holder is the last of the readers, perhaps of many */
	char holder_comm[TASK_COMM_LEN];
};

struct contended {
	struct waiting w;
	__u64 ended;
	__u32 tid;
	__u32 stack_bytes;
	char comm[TASK_COMM_LEN];
	__u64 stack[FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct waiting);
} waiting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} contended SEC(".maps");

volatile const __u64 least_ns = 1000000;
volatile const __u64 told_most = 500; /* a second and CPU */

/* How many wait, by the low bits of their tid: the end of a spin, which is most
 * of all ends, costs a load and a compare. */
#define SLOTS 4096
__s64 sleepers[SLOTS] = {};

static __always_inline void holder(struct waiting *w, void *lock, __u32 flags)
{
	struct task_struct *p;
	__u64 owner = 0, mm = 0, own_mm = 0;

	if (flags & LCB_F_MUTEX) {
		bpf_probe_read_kernel(&owner, sizeof(owner), &((struct mutex *)lock)->owner);
	} else if (flags & (LCB_F_READ | LCB_F_WRITE) && !(flags & (LCB_F_PERCPU | LCB_F_RT))) {
		struct task_struct *self = (struct task_struct *)bpf_get_current_task_btf();

		bpf_probe_read_kernel(&owner, sizeof(owner), &((struct rw_semaphore *)lock)->owner);
		w->holder_reads = (owner & RWSEM_READER_OWNED) != 0;
		bpf_probe_read_kernel(&own_mm, sizeof(own_mm), &self->mm);
		if (own_mm && (__u64)lock == own_mm + bpf_core_field_offset(struct mm_struct, mmap_lock))
			w->address_space_of = w->tgid;
	}
	owner &= ~OWNER_FLAGS;
	if (!owner)
		return;
	p = (struct task_struct *)owner;
	/* It may be gone by now: then this reads what lies there, never faults. */
	if (bpf_probe_read_kernel(&w->holder_tid, sizeof(w->holder_tid), &p->pid))
		return;
	bpf_probe_read_kernel(&w->holder_tgid, sizeof(w->holder_tgid), &p->tgid);
	bpf_probe_read_kernel(w->holder_comm, sizeof(w->holder_comm), &p->comm);
	if (!w->address_space_of && !(flags & LCB_F_MUTEX)) {
		/* Whoever looks into another process waits for that one's lock. */
		bpf_probe_read_kernel(&mm, sizeof(mm), &p->mm);
		if (mm && (__u64)lock == mm + bpf_core_field_offset(struct mm_struct, mmap_lock))
			w->address_space_of = w->holder_tgid;
	}
}

SEC("tp_btf/contention_begin")
int BPF_PROG(contention_begins, void *lock, unsigned int flags)
{
	__u64 id;
	__u32 tid;
	struct waiting w = {};

	if (flags & LCB_F_SPIN)
		return 0;
	id = bpf_get_current_pid_tgid();
	tid = (__u32)id;
	if (!tid)
		return 0;
	w.began = bpf_ktime_get_ns();
	w.lock = (__u64)lock;
	w.flags = flags;
	w.tgid = id >> 32;
	holder(&w, lock, flags);
	if (bpf_map_update_elem(&waiting, &tid, &w, BPF_NOEXIST)) {
		struct rate *t = rate_here();
		/* One that is there already began anew: a mutex that was spun on. */
		if (t && !bpf_map_lookup_elem(&waiting, &tid))
			t->lost++;
		return 0;
	}
	__sync_fetch_and_add(&sleepers[tid & (SLOTS - 1)], 1);
	return 0;
}

SEC("tp_btf/contention_end")
int BPF_PROG(contention_ends, void *lock, int result)
{
	struct waiting *w;
	struct contended *c;
	struct rate *t;
	__u64 now;
	__u32 tid;
	long n;

	tid = (__u32)bpf_get_current_pid_tgid();
	if (sleepers[tid & (SLOTS - 1)] == 0)
		return 0;
	w = bpf_map_lookup_elem(&waiting, &tid);
	/* An interrupt that spins meanwhile is not the end of the sleep. */
	if (!w || w->lock != (__u64)lock)
		return 0;
	now = bpf_ktime_get_ns();
	if (now - w->began < least_ns)
		goto out;
	t = rate_here();
	if (!t || !may_tell(t, now, told_most))
		goto out;
	c = bpf_ringbuf_reserve(&contended, sizeof(*c), 0);
	if (!c) {
		t->lost++;
		goto out;
	}
	__builtin_memcpy(&c->w, w, sizeof(*w));
	c->ended = now;
	c->tid = tid;
	bpf_get_current_comm(c->comm, sizeof(c->comm));
	n = bpf_get_stack(ctx, c->stack, sizeof(c->stack), 0);
	c->stack_bytes = n > 0 ? n : 0;
	bpf_ringbuf_submit(c, BPF_RB_NO_WAKEUP);
out:
	bpf_map_delete_elem(&waiting, &tid);
	__sync_fetch_and_add(&sleepers[tid & (SLOTS - 1)], -1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
