/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The few kernel structures that the programs read, field by field, relocated
 * to the running kernel when they are loaded (CO-RE). Only what is read is
 * declared; names are the kernel's own.
 */
#ifndef FREEZEFRAME_KERNEL_H
#define FREEZEFRAME_KERNEL_H

#include <stdbool.h>
#include <stddef.h>

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u16 __sum16;

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_STACK_TRACE = 7,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
	BPF_F_USER_STACK = 1 << 8,
	BPF_F_FAST_STACK_CMP = 1 << 9,
	BPF_F_REUSE_STACKID = 1 << 10,
	BPF_F_USER_BUILD_ID = 1 << 11,
	BPF_RB_NO_WAKEUP = 1,
	BPF_F_MMAPABLE = 1 << 10,
};

/* bpf_task_pt_regs came with Linux 5.15. */
enum bpf_func_id___5_15 { BPF_FUNC_task_pt_regs___5_15 = 175 };

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define READS __attribute__((preserve_access_index))

/* include/linux/sched.h: get_task_state and the reporting states */
#define TASK_RUNNING 0x0000
#define TASK_INTERRUPTIBLE 0x0001
#define TASK_UNINTERRUPTIBLE 0x0002
#define TASK_STOPPED 0x0004
#define TASK_TRACED 0x0008
#define EXIT_DEAD 0x0010
#define EXIT_ZOMBIE 0x0020
#define TASK_PARKED 0x0040
#define TASK_NOLOAD 0x0400
#define TASK_RTLOCK_WAIT 0x1000
#define TASK_FROZEN 0x8000
#define PF_WQ_WORKER 0x00000020
#define PF_KTHREAD 0x00200000

#define TASK_COMM_LEN 16
#define MAX_RT_PRIO 100

typedef struct {
	int counter;
} READS atomic_t;

typedef struct {
	long counter;
} READS atomic_long_t;

typedef struct {
	__s64 counter;
} READS atomic64_t;

typedef struct {
	atomic_t refs;
} READS refcount_t;

struct rq {
	__u64 clock;
	__u64 clock_task;
	int cpu;
} READS;

struct cfs_rq {
	struct rq *rq;
} READS;

struct sched_entity {
	__u64 exec_start;
	__u64 sum_exec_runtime;
	__u64 prev_sum_exec_runtime;
	struct cfs_rq *cfs_rq;
} READS;

struct sched_info {
	unsigned long pcount;
	unsigned long long run_delay;
	unsigned long long last_arrival;
	unsigned long long last_queued;
} READS;

struct qstr {
	const unsigned char *name;
} READS;

struct super_block {
	__u32 s_dev;
} READS;

struct inode {
	unsigned short i_mode;
	unsigned long i_ino;
	struct super_block *i_sb;
} READS;

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
} READS;

struct path {
	struct dentry *dentry;
} READS;

struct file {
	struct path f_path;
	struct inode *f_inode;
} READS;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} READS;

struct files_struct {
	struct fdtable *fdt;
} READS;

struct rw_semaphore {
	atomic_long_t count;
	atomic_long_t owner;
} READS;

struct mutex {
	atomic_long_t owner;
} READS;

struct ns_common {
	unsigned int inum;
} READS;

struct net {
	struct ns_common ns;
} READS;

struct upid {
	int nr;
} READS;

struct pid {
	unsigned int level;
	struct upid numbers[1];
} READS;

/* include/net/sock.h */
typedef struct {
	struct net *net;
} READS possible_net_t;

struct in6_addr___kernel {
	__u8 bytes[16];
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr___kernel skc_v6_daddr;
	struct in6_addr___kernel skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	refcount_t skc_refcnt;
} READS;

struct sk_buff_head {
	__u32 qlen;
} READS;

struct socket;

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct socket *sk_socket;
	__u16 sk_protocol;
	__u16 sk_type;
	__u8 sk_shutdown;
	int sk_err;
	struct pid *sk_peer_pid;
} READS;

struct net_device {
	possible_net_t nd_net;
} READS;

struct sk_buff {
	struct sock *sk;
	struct net_device *dev;
	char cb[48];
	unsigned int len;
	__u16 transport_header;
	__u16 network_header;
	unsigned char *head;
	unsigned char *data;
} READS;

struct kernel_siginfo {
	int si_signo;
	int si_code;
} READS;

/* include/linux/percpu_counter.h */
struct percpu_counter {
	__s64 count;
} READS;

/* The kinds of memory (include/linux/mm_types_task.h). */
enum { MM_FILEPAGES = 0, MM_ANONPAGES = 1, MM_SWAPENTS = 2, MM_SHMEMPAGES = 3 };

struct mm_struct {
	struct rw_semaphore mmap_lock; /* mmap_sem before Linux 5.8 */
	unsigned long total_vm;
	int map_count;
	struct percpu_counter rss_stat[4]; /* since Linux 6.2 */
} READS;

struct mm_rss_stat___before_6_2 {
	atomic_long_t count[4];
} READS;

struct mm_struct___before_6_2 {
	struct mm_rss_stat___before_6_2 rss_stat;
} READS;

struct mm_struct___before_5_16 {
	void *core_state;
} READS;

struct tty_driver {
	int major;
	int minor_start;
} READS;

struct tty_struct {
	int index;
	struct tty_driver *driver;
} READS;

struct rlimit {
	unsigned long rlim_cur;
} READS;

#define RLIMIT_NPROC 6
#define RLIMIT_NOFILE 7

/* include/linux/task_io_accounting.h */
struct task_io_accounting {
	__u64 syscw;
	__u64 read_bytes;
	__u64 write_bytes;
	__u64 cancelled_write_bytes;
} READS;

struct prev_cputime {
	__u64 utime;
	__u64 stime;
} READS;

/* What the threads of a process share; sums are those of its dead threads. */
struct signal_struct {
	atomic_t live; /* threads that are not dead */
	int nr_threads;
	void *core_state; /* since Linux 5.16 */
	struct tty_struct *tty;
	__u64 utime;
	__u64 stime;
	__u64 cutime;
	__u64 cstime;
	struct prev_cputime prev_cputime;
	unsigned long min_flt;
	unsigned long maj_flt;
	struct task_io_accounting ioac;
	unsigned long long sum_sched_runtime;
	struct rlimit rlim[16];
} READS;

/* include/linux/delayacct.h */
struct task_delay_info {
	__u64 blkio_delay;
	__u64 swapin_delay;
	__u64 freepages_delay;
	__u64 thrashing_delay;
	__u64 compact_delay; /* since Linux 5.17 */
	__u64 wpcopy_delay;  /* since Linux 5.19 */
} READS;

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t euid;
} READS;

struct kernfs_node {
	__u64 id;
	const char *name;
} READS;

struct cgroup {
	struct kernfs_node *kn;
} READS;

struct css_set {
	struct cgroup *dfl_cgrp;
} READS;

struct nsproxy {
	struct net *net_ns;
} READS;

struct cpumask {
	unsigned long bits[1];
} READS;

struct thread_info {
	__u32 cpu;
} READS;

struct task_struct {
	struct thread_info thread_info;
	unsigned int __state; /* since Linux 5.14 */
	unsigned int flags;
	unsigned int ptrace;
	int on_cpu;
	int prio;
	int static_prio;
	unsigned int rt_priority;
	unsigned int policy;
	int nr_cpus_allowed;
	const struct cpumask *cpus_ptr;
	struct sched_entity se;
	struct sched_info sched_info;
	struct mm_struct *mm;
	int exit_state;
	int exit_code; /* as wait(2) tells it */
	__s32 pid;
	__s32 tgid;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct task_struct *parent;
	struct pid *thread_pid;
	__u64 utime;
	__u64 stime;
	unsigned long nvcsw;
	unsigned long nivcsw;
	__u64 start_boottime; /* since Linux 5.5 */
	unsigned long min_flt;
	unsigned long maj_flt;
	const struct cred *real_cred;
	const struct cred *cred;
	char comm[TASK_COMM_LEN];
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	__u64 self_exec_id;
	struct task_io_accounting ioac;
	struct css_set *cgroups;
	struct task_delay_info *delays;
} READS;

struct task_struct___before_5_16 {
	unsigned int cpu;
} READS;

struct task_struct___before_5_14 {
	volatile long state;
} READS;

/* kernel/kthread.c, kernel/workqueue_internal.h: what a kworker is at work on. */
struct kthread {
	void *data; /* of a kworker: its struct worker */
} READS;

struct worker {
	char desc[32]; /* the queue's name, or what the work itself says */
} READS;

struct task_struct___kthread {
	void *worker_private; /* since Linux 5.17; before, set_child_tid was used for it */
	void *set_child_tid;
} READS;

/* Registers of a task in the kernel (arch/.../include/asm/ptrace.h). */
struct pt_regs___x86 {
	unsigned long di;
	unsigned long orig_ax;
} READS;

struct user_pt_regs___arm64 {
	__u64 regs[31];
} READS;

struct pt_regs___arm64 {
	struct user_pt_regs___arm64 user_regs;
	__s32 syscallno;
} READS;

/* include/linux/bpf.h, kernel/bpf/task_iter.c */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} READS;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} READS;

static __always_inline __u32 task_state(struct task_struct *p)
{
	if (bpf_core_field_exists(p->__state))
		return p->__state;
	return (__u32)((struct task_struct___before_5_14 *)p)->state;
}

static __always_inline bool idle_kthread(__u32 state)
{
	return (state & TASK_NOLOAD) != 0;
}

/* Tables that the reader maps: a slot is looked for at its hash and behind it. */
static __always_inline __u32 hash(__u64 x)
{
	return (__u32)((x * 0x9E3779B97F4A7C15ULL) >> 40);
}

/* within keeps an index in a table of a power of two, where the verifier sees
 * it: the compiler would leave out what it knows itself. */
#define within(x, size) ({ \
	__u64 __x = (x); \
	asm volatile("%0 &= %1" : "+r"(__x) : "i"((size) - 1)); \
	__x; })

/* address is a pointer as a number: the verifier wants no sums with pointers. */
static __always_inline __u64 address(const void *p)
{
	__u64 n = 0;
	bpf_probe_read_kernel(&n, sizeof(n), &p);
	return n;
}

#endif
