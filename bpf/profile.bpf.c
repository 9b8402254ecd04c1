//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * profile: what runs on each CPU, sampled by a perf event of that CPU while a
 * stall is open or suspected: the thread, and where in the kernel and in the
 * program it is. The event is off while all is well, and costs nothing then.
 */
#include "kernel.h"

#define KERNEL_FRAMES 24
#define USER_FRAMES 32

struct build_id_frame { /* struct bpf_stack_build_id */
	__s32 status;
	__u8 build_id[20];
	__u64 offset;
};

struct sample {
	__u64 at;
	__u64 start; /* of the thread, CLOCK_BOOTTIME */
	__u64 leader_start;
	__u32 tid, tgid;
	__u16 cpu;
	__u16 prio;
	__u16 kernel_bytes;
	__u16 user_bytes;
	char comm[TASK_COMM_LEN];
	__u64 kernel[KERNEL_FRAMES];
	struct build_id_frame user[USER_FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 19);
} samples SEC(".maps");

__u64 lost = 0;

SEC("perf_event")
int sample(void *ctx)
{
	struct task_struct *p = (struct task_struct *)bpf_get_current_task();
	struct sample *s;
	long n;

	if (!(__u32)bpf_get_current_pid_tgid())
		return 0; /* idle */
	s = bpf_ringbuf_reserve(&samples, sizeof(*s), 0);
	if (!s) {
		lost++;
		return 0;
	}
	s->at = bpf_ktime_get_ns();
	s->tid = BPF_CORE_READ(p, pid);
	s->tgid = BPF_CORE_READ(p, tgid);
	s->start = BPF_CORE_READ(p, start_boottime);
	s->leader_start = BPF_CORE_READ(p, group_leader, start_boottime);
	s->prio = BPF_CORE_READ(p, prio);
	s->cpu = bpf_get_smp_processor_id();
	bpf_get_current_comm(s->comm, sizeof(s->comm));
	n = bpf_get_stack(ctx, s->kernel, sizeof(s->kernel), 0);
	s->kernel_bytes = n > 0 ? n : 0;
	s->user_bytes = 0;
	if (!(BPF_CORE_READ(p, flags) & PF_KTHREAD)) {
		n = bpf_get_stack(ctx, s->user, sizeof(s->user), BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
		s->user_bytes = n > 0 ? n : 0;
	}
	bpf_ringbuf_submit(s, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
