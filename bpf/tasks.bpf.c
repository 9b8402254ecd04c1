//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * tasks: a pass over all threads of the machine, that tells of those of which
 * there is news: who ran since the pass before, who is stuck, who is watched.
 * It reads what /proc/PID/{stat,status,schedstat,io,limits,syscall,stack}
 * show, at a small part of what opening and printing those files costs, and
 * takes no lock of the task.
 *
 * Who ran is known without a memory of every thread: se.exec_start is when a
 * thread that is not on a CPU left it, in the time of that CPU's run queue
 * (rq->clock_task). A pass keeps the clock of each run queue, as it meets it
 * first; whoever left the CPU later ran since.
 */
#include "kernel.h"
#include "where.h"

#define FRAMES 24
#define MASK_WORDS 4

/* What a pass is asked for. */
enum {
	FULL = 1,       /* every thread */
	WIDE = 2,       /* since the last wide pass, with the processes */
	ALIVE = 4,      /* that the others are still there */
	OWN = 8,        /* our own threads as well */
	PLACES = 16,    /* where those sleep that ran, not only the stuck and the watched */
	PLACES_ALL = 32 /* also where those sleep that did not run */
};

/* The kinds of record; each begins with its kind and a thread. */
enum { HEAD = 1, TASK = 2, PROCESS = 3, PLACE = 4, LIVES = 5 };

struct head {
	__u32 kind, cpu;
	__s64 monotonic; /* bpf_ktime_get_ns - rq->clock of this CPU */
};

struct lives {
	__u32 kind, tid;
};

struct task {
	__u32 kind, tid, tgid, flags;
	__u64 start_boottime;
	__u64 run_ns, run_delay, pcount;
	__u64 arrived, left; /* rq->clock: when it last got a CPU, and left it */
	__u64 utime, stime;
	__u64 min_flt, maj_flt, nvcsw, nivcsw;
	__u64 delays[6]; /* blkio swapin freepages thrashing compact wpcopy */
	__u64 syscw, read_bytes, write_bytes, cancelled_write_bytes;
	__u64 allowed; /* a hash of the CPUs that it may run on */
	__u32 cpu, policy, rt_priority, allowed_cpus;
	__s32 nice;
	char state;
	__u8 pad[3];
	char comm[TASK_COMM_LEN];
};

/* Sums are of the process's threads that have ended. */
struct process {
	__u32 kind, tgid, ppid, uid;
	__u64 start_boottime; /* of the first thread */
	__u64 utime, stime, run_ns, cutime, cstime;
	__u64 shown_utime, shown_stime; /* what /proc has shown of all its threads */
	__u64 min_flt, maj_flt;
	__u64 syscw, read_bytes, write_bytes, cancelled_write_bytes;
	__u64 rss_pages, swap_pages, vm_pages;
	__u64 files_max, processes_max, maps;
	__u64 exec_id, groups; /* change with exec, and with any cgroup of it */
	__u32 threads, tty, tracer, coredumping;
	__u32 netns, nspid;
};

struct place {
	__u32 kind, tid;
	__u64 first; /* argument of the system call */
	__u64 inode; /* of the descriptor that it is, 0: none */
	__u32 device;
	__s32 syscall;
	__u16 mode, stack_bytes;
	char name[36];
	__u64 stack[FRAMES];
};

/* What user space writes before a pass. */
struct control {
	__u32 pass; /* counts on, from 1 */
	__u32 flags;
	__u32 own;
	__u32 pad;
	/* A bit for each tgid modulo 4096: whose threads are all told, and those
	 * of them that are new in it. */
	__u64 watched[64];
	__u64 fresh[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* mark is the clock of a run queue at passes. */
struct mark {
	__u64 pass;  /* the last one that met it */
	__u64 since; /* who left the CPU later has news for this pass */
	__u64 last, wide;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* as many as CPUs: set when it is loaded */
	__type(key, __u32);
	__type(value, struct mark);
} marks SEC(".maps");

/* The processes told of in this pass; two in one place are told of twice. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} told SEC(".maps");

struct scratch {
	struct task task;
	struct process process;
	struct place place;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* letter is the state as /proc/PID/stat has it (fs/proc/array.c). */
static __always_inline char letter(struct task_struct *p)
{
	__u32 state = task_state(p);
	__u32 exit = p->exit_state;

	if (exit & EXIT_ZOMBIE)
		return 'Z';
	if (exit & EXIT_DEAD)
		return 'X';
	if ((state & (TASK_UNINTERRUPTIBLE | TASK_NOLOAD)) == (TASK_UNINTERRUPTIBLE | TASK_NOLOAD))
		return 'I';
	if (state & TASK_PARKED)
		return 'P';
	if (state & TASK_TRACED)
		return 't';
	if (state & TASK_STOPPED)
		return 'T';
	if (state & (TASK_UNINTERRUPTIBLE | TASK_RTLOCK_WAIT | TASK_FROZEN))
		return 'D';
	if (state & TASK_INTERRUPTIBLE)
		return 'S';
	return 'R';
}

static __always_inline __u32 cpu_of(struct task_struct *p)
{
	if (bpf_core_field_exists(p->thread_info.cpu))
		return p->thread_info.cpu;
	return ((struct task_struct___before_5_16 *)p)->cpu;
}

static __always_inline bool bit(const __u64 *set, __u32 tgid)
{
	return set[(tgid >> 6) & 63] >> (tgid & 63) & 1;
}

/* changed_since is the clock after which whoever left this run queue ran since
 * the pass that counts; told of again and again within a pass, as the kernel
 * calls us a second time for a task whose records did not fit. */
static __always_inline __u64 changed_since(struct rq *rq, const struct control *c)
{
	__u32 cpu = rq->cpu;
	struct mark *m = bpf_map_lookup_elem(&marks, &cpu);

	if (!m)
		return 0;
	if (m->pass != c->pass) {
		m->pass = c->pass;
		m->since = c->flags & WIDE ? m->wide : m->last;
		m->last = rq->clock_task;
		if (c->flags & WIDE)
			m->wide = m->last;
	}
	return m->since;
}

/* Whether the kernel has CONFIG_TASK_XACCT and CONFIG_TASK_IO_ACCOUNTING. */
#define counts_io(ioac) \
	(bpf_core_field_exists((ioac).syscw) && bpf_core_field_exists((ioac).cancelled_write_bytes))

static __always_inline void read_task(struct task *t, struct task_struct *p, char state, struct rq *rq)
{
	__u64 hash = 0;

	t->kind = TASK;
	t->tid = p->pid;
	t->tgid = p->tgid;
	t->flags = p->flags;
	t->start_boottime = p->start_boottime;
	t->run_ns = p->se.sum_exec_runtime;
	t->run_delay = p->sched_info.run_delay;
	t->pcount = p->sched_info.pcount;
	t->arrived = p->sched_info.last_arrival;
	t->left = slept_since(p);
	t->utime = p->utime;
	t->stime = p->stime;
	t->min_flt = p->min_flt;
	t->maj_flt = p->maj_flt;
	t->nvcsw = p->nvcsw;
	t->nivcsw = p->nivcsw;
	t->delays[0] = t->delays[1] = t->delays[2] = t->delays[3] = t->delays[4] = t->delays[5] = 0;
	struct task_delay_info *d = bpf_core_field_exists(p->delays) ? p->delays : NULL;
	if (d) {
		t->delays[0] = d->blkio_delay;
		t->delays[1] = d->swapin_delay;
		t->delays[2] = d->freepages_delay;
		t->delays[3] = d->thrashing_delay;
		if (bpf_core_field_exists(d->compact_delay))
			t->delays[4] = d->compact_delay;
		if (bpf_core_field_exists(d->wpcopy_delay))
			t->delays[5] = d->wpcopy_delay;
	}
	t->syscw = t->read_bytes = t->write_bytes = t->cancelled_write_bytes = 0;
	if (counts_io(p->ioac)) {
		t->syscw = p->ioac.syscw;
		t->read_bytes = p->ioac.read_bytes;
		t->write_bytes = p->ioac.write_bytes;
		t->cancelled_write_bytes = p->ioac.cancelled_write_bytes;
	}
	t->allowed_cpus = p->nr_cpus_allowed;
	__u64 mask[MASK_WORDS] = {};
	__u32 bytes = bpf_core_type_size(struct cpumask);
	bpf_probe_read_kernel(mask, bytes < sizeof(mask) ? bytes : sizeof(mask), p->cpus_ptr);
	for (int i = 0; i < MASK_WORDS; i++)
		hash = (hash ^ mask[i]) * 0x9e3779b97f4a7c15ULL + (hash >> 29);
	t->allowed = hash + t->allowed_cpus;
	t->cpu = cpu_of(p);
	t->policy = p->policy;
	t->rt_priority = p->rt_priority;
	t->nice = p->static_prio - 120;
	t->state = state;
	bpf_probe_read_kernel(t->comm, sizeof(t->comm), p->comm);
}

static __always_inline __u64 positive(__s64 n)
{
	return n > 0 ? n : 0;
}

/* A macro, since only a constant index is relocated. The older ones are an array
 * of a typedef, through which those kernels let no program walk by itself. */
#define pages(mm, kind) \
	positive(bpf_core_field_exists(((struct mm_struct___before_6_2 *)0)->rss_stat.count) ? \
		BPF_CORE_READ((struct mm_struct___before_6_2 *)mm, rss_stat.count[kind].counter) : (mm)->rss_stat[kind].count)

static __always_inline void read_process(struct process *g, struct task_struct *p)
{
	struct signal_struct *s = p->signal;
	struct mm_struct *mm = p->mm;
	struct tty_struct *tty;
	struct nsproxy *ns;
	struct pid *pid;

	g->kind = PROCESS;
	g->tgid = p->tgid;
	g->start_boottime = p->group_leader->start_boottime;
	g->ppid = p->real_parent->tgid;
	g->uid = p->cred->euid.val;
	/* Before its threads are read: one that ends meanwhile is not counted
	 * twice. */
	g->utime = s->utime;
	g->stime = s->stime;
	g->run_ns = s->sum_sched_runtime;
	g->shown_utime = s->prev_cputime.utime;
	g->shown_stime = s->prev_cputime.stime;
	g->cutime = s->cutime;
	g->cstime = s->cstime;
	g->min_flt = s->min_flt;
	g->maj_flt = s->maj_flt;
	g->syscw = g->read_bytes = g->write_bytes = g->cancelled_write_bytes = 0;
	if (counts_io(s->ioac)) {
		g->syscw = s->ioac.syscw;
		g->read_bytes = s->ioac.read_bytes;
		g->write_bytes = s->ioac.write_bytes;
		g->cancelled_write_bytes = s->ioac.cancelled_write_bytes;
	}
	g->files_max = s->rlim[RLIMIT_NOFILE].rlim_cur;
	g->processes_max = s->rlim[RLIMIT_NPROC].rlim_cur;
	g->threads = s->nr_threads;
	g->exec_id = p->self_exec_id;
	/* Read as a number: the verifier allows no arithmetic with a pointer. */
	g->groups = (__u64)BPF_CORE_READ(p, cgroups) ^ p->cgroups->dfl_cgrp->kn->id << 40;
	g->rss_pages = g->swap_pages = g->vm_pages = g->maps = 0;
	g->coredumping = 0;
	if (bpf_core_field_exists(s->core_state))
		g->coredumping = s->core_state != NULL;
	if (mm) {
		g->rss_pages = pages(mm, MM_FILEPAGES) + pages(mm, MM_ANONPAGES) + pages(mm, MM_SHMEMPAGES);
		g->swap_pages = pages(mm, MM_SWAPENTS);
		g->vm_pages = mm->total_vm;
		g->maps = mm->map_count;
		if (bpf_core_field_exists(((struct mm_struct___before_5_16 *)0)->core_state))
			g->coredumping = ((struct mm_struct___before_5_16 *)mm)->core_state != NULL;
	}
	g->tty = 0;
	tty = s->tty;
	if (tty) {
		__u32 minor = tty->driver->minor_start + tty->index;
		g->tty = (minor & 0xff) | (__u32)tty->driver->major << 8 | (minor & ~0xffU) << 12;
	}
	g->tracer = p->ptrace ? p->parent->pid : 0;
	ns = p->nsproxy;
	g->netns = ns ? ns->net_ns->ns.inum : 0;
	g->nspid = p->tgid;
	pid = BPF_CORE_READ(p, group_leader, thread_pid);
	if (pid) {
		__u32 level = BPF_CORE_READ(pid, level);
		if (level)
			bpf_probe_read_kernel(&g->nspid, sizeof(g->nspid),
				(void *)pid + bpf_core_field_offset(pid->numbers) + level * bpf_core_type_size(struct upid));
	}
}

static __always_inline void read_place(struct place *w, struct task_struct *p)
{
	struct open_file f;

	w->kind = PLACE;
	w->tid = p->pid;
	w->inode = 0;
	w->device = 0;
	w->mode = 0;
	w->name[0] = 0;
	w->syscall = system_call(p, &w->first);
	if (w->syscall >= 0 && open_file(p, w->first, &f)) {
		w->inode = f.inode;
		w->device = f.device;
		w->mode = f.mode;
		bpf_probe_read_kernel_str(w->name, sizeof(w->name), f.name);
	}
	long n = bpf_get_task_stack(p, w->stack, sizeof(w->stack), 0);
	w->stack_bytes = n > 0 ? n : 0;
}

SEC("iter/task")
int tasks(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *p = ctx->task;
	__u32 zero = 0;

	if (!p)
		return 0;
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	if (!c)
		return 0;
	if (ctx->meta->seq_num == 0) {
		/* Whoever reads has just had the clock of its run queue adjusted. */
		struct head h = {.kind = HEAD, .cpu = bpf_get_smp_processor_id()};
		struct rq *own = rq_of((struct task_struct *)bpf_get_current_task_btf());
		h.monotonic = bpf_ktime_get_ns() - own->clock;
		if (own->cpu != h.cpu)
			h.cpu = ~0U;
		bpf_seq_write(seq, &h, sizeof(h));
	}

	struct rq *rq = rq_of(p);
	__u64 since = changed_since(rq, c);
	__u64 left = p->se.exec_start;
	__u32 flags = c->flags;
	__u32 tgid = p->tgid;
	char state = letter(p);
	/* exec_start is 0 for one that never ran, or was moved to another CPU. */
	bool ran = left >= since || !left || state == 'R';
	bool watched = bit(c->watched, tgid);
	bool marked = watched || state == 'D' || state == 'T' || state == 't';
	bool news = ran && (tgid != c->own || flags & OWN || marked);

	/* Of one that has not run nothing is new, wherever it sleeps. */
	if (!(flags & FULL) && !news && !(watched && (flags & WIDE || bit(c->fresh, tgid)))) {
		if (flags & ALIVE || marked) {
			struct lives l = {.kind = LIVES, .tid = p->pid};
			bpf_seq_write(seq, &l, sizeof(l));
		}
		return 0;
	}
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s)
		return 0;
	long failed = 0;
	__u64 *done = NULL;
	if (flags & WIDE || watched) {
		__u32 slot = tgid & 1023;
		__u64 id = (__u64)c->pass << 32 | tgid;
		done = bpf_map_lookup_elem(&told, &slot);
		if (done && *done != id) {
			read_process(&s->process, p);
			failed |= bpf_seq_write(seq, &s->process, sizeof(s->process));
		}
		if (done && !failed)
			*done = id;
	}
	read_task(&s->task, p, state, rq);
	failed |= bpf_seq_write(seq, &s->task, sizeof(s->task));
	if (state != 'R' && state != 'Z' && state != 'X' && (flags & PLACES || marked) &&
	    (ran || flags & PLACES_ALL || bit(c->fresh, tgid))) {
		read_place(&s->place, p);
		/* Had it been woken meanwhile, the stack would be anything. */
		if (p->sched_info.pcount == s->task.pcount && letter(p) == state)
			failed |= bpf_seq_write(seq, &s->place, sizeof(s->place));
	}
	/* What does not fit makes the kernel call us once more for this task. */
	if (failed && done)
		*done = 0;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
