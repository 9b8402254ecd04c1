package detectors

import (
	"testing"

	"freezeframe"
)

// Stacks as kernels 6.1 and 6.18 show them (entry frames left out).
func TestPlacesOfRealKernels(t *testing.T) {
	for _, c := range []struct {
		p    place
		want freezeframe.Class
	}{
		{place{state: 'S', stack: "anon_pipe_write<-vfs_write<-ksys_write<-do_syscall_64"}, freezeframe.PipeWait},
		{place{state: 'S', wchan: "pipe_write"}, freezeframe.PipeWait},
		{place{state: 'S', stack: "anon_pipe_read<-vfs_read<-ksys_read"}, freezeframe.Idle},
		{place{state: 'S', stack: "locks_lock_inode_wait<-__do_sys_flock<-do_syscall_64"}, freezeframe.FileLock},
		{place{state: 'S', stack: "fcntl_setlk<-do_fcntl<-__x64_sys_fcntl"}, freezeframe.FileLock},
		{place{state: 'S', stack: "inet_csk_accept<-inet_accept<-do_accept<-__sys_accept4"}, freezeframe.Idle},
		{place{state: 'S', stack: "wait_woken<-sk_wait_data<-tcp_recvmsg_locked<-tcp_recvmsg"}, freezeframe.PeerWait},
		{place{state: 'S', stack: "poll_schedule_timeout.constprop.0<-do_sys_poll<-__x64_sys_poll"}, freezeframe.Idle},
		{place{state: 'S', stack: "sock_alloc_send_pskb<-unix_dgram_sendmsg<-__sys_sendto"}, freezeframe.PeerWait},
		{place{state: 'S', stack: "__skb_wait_for_more_packets<-__skb_recv_udp<-udp_recvmsg"}, freezeframe.PeerWait},
		{place{state: 'S', stack: "hrtimer_nanosleep<-common_nsleep_timens<-__x64_sys_clock_nanosleep"}, freezeframe.Sleeping},
		{place{state: 'S', stack: "futex_do_wait<-__futex_wait<-futex_wait<-do_futex"}, freezeframe.UserLock},
		{place{state: 'T', stack: "do_signal_stop<-get_signal"}, freezeframe.Stopped},
		{place{state: 't', wchan: "ptrace_stop"}, freezeframe.Stopped},
		{place{state: 'S', stack: "do_wait<-kernel_wait4<-do_syscall_64"}, freezeframe.ChildWait},
		{place{state: 'D', stack: "percpu_rwsem_wait<-__percpu_down_read<-vfs_write<-ksys_write"}, freezeframe.FilesystemWait},
		{place{state: 'D', stack: "fdget_pos<-ksys_write"}, freezeframe.KernelLock},
		{place{state: 'D', stack: "request_wait_answer<-__fuse_simple_request<-fuse_lookup_name"}, freezeframe.FilesystemWait},
		{place{state: 'D', stack: "rpc_wait_bit_killable<-__rpc_execute<-nfs4_call_sync"}, freezeframe.FilesystemWait},
		{place{state: 'D', stack: "jbd2_log_wait_commit<-ext4_sync_file<-do_fsync"}, freezeframe.FilesystemWait},
		{place{state: 'D', stack: "balance_dirty_pages<-balance_dirty_pages_ratelimited_flags<-generic_perform_write"}, freezeframe.FilesystemWait},
		{place{state: 'D', stack: "io_schedule<-folio_wait_bit_common<-filemap_fault<-__do_fault<-do_read_fault"}, freezeframe.SwapIn},
		{place{state: 'D', stack: "io_schedule<-folio_wait_bit_common<-folio_wait_writeback<-file_write_and_wait_range<-ext4_sync_file"}, freezeframe.DeviceWait},
		{place{state: 'D', stack: "io_schedule<-blk_mq_get_tag<-__blk_mq_alloc_requests"}, freezeframe.DeviceWait},
		{place{state: 'D', stack: "__sync_dirty_buffer<-ext4_write_inode<-__writeback_single_inode", syscall: "fsync"}, freezeframe.DeviceWait},
		{place{state: 'D', stack: "inode_wait_for_writeback<-writeback_single_inode<-sync_inode_metadata", syscall: "fsync"}, freezeframe.DeviceWait},
		{place{state: 'D', stack: "wb_wait_for_completion<-sync_inodes_sb<-sync_filesystem<-__do_sys_syncfs", syscall: "syncfs"}, freezeframe.DeviceWait},
		{place{state: 'D', stack: "__filemap_get_folio<-ext4_da_write_begin<-generic_perform_write<-ext4_buffered_write_iter"}, freezeframe.DeviceWait},
		{place{state: 'D', stack: "__folio_lock_killable<-filemap_fault<-__do_fault<-do_read_fault"}, freezeframe.SwapIn},
		{place{state: 'D', stack: "io_schedule<-folio_lock<-do_swap_page<-handle_mm_fault"}, freezeframe.SwapIn},
		{place{state: 'D', stack: "io_schedule<-shrink_folio_list<-shrink_lruvec<-shrink_node<-try_to_free_mem_cgroup_pages<-try_charge_memcg"}, freezeframe.Reclaim},
		{place{state: 'D', stack: "mem_cgroup_out_of_memory<-try_charge_memcg"}, freezeframe.Reclaim},
		{place{state: 'D', stack: "rwsem_down_read_slowpath<-down_read<-do_user_addr_fault"}, freezeframe.KernelLock},
		{place{state: 'D', stack: "__refrigerator<-get_signal"}, freezeframe.Frozen},
		// cgroup v2, Debian 12's 6.1.0-57: in a system call, by stack and without, and interrupted in user space.
		{place{state: 'S', wchan: "get_signal", syscall: "clock_nanosleep",
			stack: "get_signal<-arch_do_signal_or_restart<-exit_to_user_mode_prepare<-syscall_exit_to_user_mode<-do_syscall_64"}, freezeframe.Frozen},
		{place{state: 'S', wchan: "get_signal", syscall: "epoll_wait"}, freezeframe.Frozen},
		{place{state: 'S', wchan: "get_signal", stack: "get_signal<-arch_do_signal_or_restart<-exit_to_user_mode_prepare<-irqentry_exit_to_user_mode"}, freezeframe.Frozen},
		{place{state: 'T', wchan: "get_signal"}, freezeframe.Stopped},
		{place{state: 'D', wchan: "folio_wait_bit_common", stack: "io_schedule<-folio_wait_bit_common<-do_exit<-do_group_exit<-get_signal"}, freezeframe.DeviceWait},
		{place{state: 'D', stack: "do_exit_driver_thing<-ioctl"}, freezeframe.KernelLock},
		{place{state: 'S', syscall: "flock"}, freezeframe.FileLock},
		{place{state: 'S'}, freezeframe.Unseen},
		{place{state: 'Z'}, freezeframe.Unseen},
	} {
		if got := c.p.class(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.p, got, c.want)
		}
	}
}
