/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where a task that is not on a CPU sleeps, and since when: for more than one
 * family of programs.
 */
#ifndef FREEZEFRAME_WHERE_H
#define FREEZEFRAME_WHERE_H

#include "kernel.h"

/* rq_of is the run queue of a fair task; others keep that of their last turn. */
static __always_inline struct rq *rq_of(struct task_struct *p)
{
	return p->se.cfs_rq->rq;
}

/* slept_since is when a task that is not on a CPU left it, in rq->clock's time. */
static __always_inline __u64 slept_since(struct task_struct *p)
{
	if (p->prio < MAX_RT_PRIO) {
		/* prev_sum_exec_runtime is kept for fair tasks only; exec_start is
		 * when it last left, in the time that has no interrupts in it. */
		struct rq *rq = rq_of(p);
		return p->se.exec_start + (rq->clock - rq->clock_task);
	}
	return p->sched_info.last_arrival + (p->se.sum_exec_runtime - p->se.prev_sum_exec_runtime);
}

/* system_call returns the system call that a task sleeps in and its first
 * argument, or -1: in none, or not known. */
static __always_inline __s32 system_call(struct task_struct *p, __u64 *first)
{
	__s32 nr = -1;

	*first = ~0ULL;
	if (p->flags & PF_KTHREAD)
		return -1;
	if (!bpf_core_enum_value_exists(enum bpf_func_id___5_15, BPF_FUNC_task_pt_regs___5_15))
		return -1;
	void *regs = (void *)bpf_task_pt_regs(p);
	if (!regs)
		return -1;
	if (bpf_core_field_exists(((struct pt_regs___x86 *)0)->orig_ax)) {
		nr = (__s32)BPF_CORE_READ((struct pt_regs___x86 *)regs, orig_ax);
		*first = BPF_CORE_READ((struct pt_regs___x86 *)regs, di);
	} else if (bpf_core_field_exists(((struct pt_regs___arm64 *)0)->syscallno)) {
		nr = BPF_CORE_READ((struct pt_regs___arm64 *)regs, syscallno);
		/* regs[0] holds the first argument until the call returns. */
		*first = BPF_CORE_READ((struct pt_regs___arm64 *)regs, user_regs.regs[0]);
	}
	return nr;
}

struct open_file {
	__u64 inode;
	__u32 device;
	__u16 mode;
	const unsigned char *name; /* last part of its path, in the kernel */
};

/* open_file tells what a descriptor of a task is; false when it is none. */
static __always_inline bool open_file(struct task_struct *p, __u64 fd, struct open_file *o)
{
	struct file **table, *f;
	struct inode *inode;

	if (fd >= 1 << 20)
		return false;
	struct files_struct *files = p->files;
	if (!files)
		return false;
	struct fdtable *fdt = BPF_CORE_READ(files, fdt);
	if (!fdt || fd >= BPF_CORE_READ(fdt, max_fds))
		return false;
	table = BPF_CORE_READ(fdt, fd);
	if (bpf_probe_read_kernel(&f, sizeof(f), table + fd) || !f)
		return false;
	inode = BPF_CORE_READ(f, f_inode);
	if (!inode)
		return false;
	o->inode = BPF_CORE_READ(inode, i_ino);
	o->mode = BPF_CORE_READ(inode, i_mode);
	o->device = BPF_CORE_READ(inode, i_sb, s_dev);
	o->name = BPF_CORE_READ(f, f_path.dentry, d_name.name);
	return true;
}

#endif
