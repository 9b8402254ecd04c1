package detectors

import (
	"strings"

	"freezeframe"
)

// A place is where a sleeping thread is: what the kernel shows of it without
// tracing (proc(5): wchan, stack, syscall).
type place struct {
	state   byte // R S D T t Z
	wchan   string
	stack   string // innermost first, joined by "<-"; "" when not to be had
	syscall string
	file    string
}

// sign is a piece of a kernel function's name and the class of whoever sleeps
// under it. The table is searched in order, so the particular stands before
// the general: reclaim inside a page fault inside a write is reclaim.
type sign struct {
	part  string
	class freezeframe.Class
}

var signs = []sign{
	{"__refrigerator", freezeframe.Frozen},
	{"do_freezer_trap", freezeframe.Frozen},
	{"cgroup_enter_frozen", freezeframe.Frozen},
	{"do_signal_stop", freezeframe.Stopped},
	{"ptrace_stop", freezeframe.Stopped},
	{"do_jobctl_trap", freezeframe.Stopped},

	{"try_to_free_mem_cgroup_pages", freezeframe.Reclaim},
	{"try_to_free_pages", freezeframe.Reclaim},
	{"throttle_direct_reclaim", freezeframe.Reclaim},
	{"reclaim_throttle", freezeframe.Reclaim},
	{"mem_cgroup_handle_over_high", freezeframe.Reclaim},
	{"mem_cgroup_oom_synchronize", freezeframe.Reclaim},
	{"mem_cgroup_out_of_memory", freezeframe.Reclaim},
	{"shrink_node", freezeframe.Reclaim},
	{"shrink_lruvec", freezeframe.Reclaim},
	{"do_swap_page", freezeframe.SwapIn},
	{"swap_read", freezeframe.SwapIn},
	{"swapin", freezeframe.SwapIn},
	{"swap_cluster_readahead", freezeframe.SwapIn},

	{"balance_dirty_pages", freezeframe.FilesystemWait},
	{"sb_start_write", freezeframe.FilesystemWait},
	{"sb_start_pagefault", freezeframe.FilesystemWait},
	{"sb_start_intwrite", freezeframe.FilesystemWait},
	{"percpu_rwsem_wait", freezeframe.FilesystemWait},
	{"percpu_down_read", freezeframe.FilesystemWait},
	{"freeze_super", freezeframe.FilesystemWait},
	{"request_wait_answer", freezeframe.FilesystemWait},
	{"fuse_dev_", freezeframe.Idle}, // the daemon's own threads, waiting for requests
	{"fuse_", freezeframe.FilesystemWait},
	{"jbd2_", freezeframe.FilesystemWait},
	{"wait_transaction_locked", freezeframe.FilesystemWait},
	{"add_transaction_credits", freezeframe.FilesystemWait},
	{"do_get_write_access", freezeframe.FilesystemWait},
	{"xlog_", freezeframe.FilesystemWait},
	{"xfs_log_", freezeframe.FilesystemWait},
	{"btrfs_commit_transaction", freezeframe.FilesystemWait},
	{"btrfs_", freezeframe.FilesystemWait},
	{"rpc_wait_bit", freezeframe.FilesystemWait},
	{"nfs_", freezeframe.FilesystemWait},
	{"nfs4_", freezeframe.FilesystemWait},
	{"autofs_wait", freezeframe.FilesystemWait},
	{"fanotify", freezeframe.FilesystemWait},

	{"lock_inode_wait", freezeframe.FileLock},
	{"do_lock_file_wait", freezeframe.FileLock},
	{"fcntl_setlk", freezeframe.FileLock},
	{"__break_lease", freezeframe.FileLock},
	{"pipe_write", freezeframe.PipeWait},
	{"pipe_wait_writable", freezeframe.PipeWait},
	// Whoever reads a pipe waits for work; ledger.go knows the exception, a
	// parent that reads what its child says.
	{"pipe_read", freezeframe.Idle},
	{"pipe_wait", freezeframe.Idle},
	{"wait_for_partner", freezeframe.PipeWait},

	{"unix_wait_for_peer", freezeframe.PeerWait},
	{"sock_alloc_send_pskb", freezeframe.PeerWait},
	{"sk_stream_wait_memory", freezeframe.PeerWait},
	{"sk_stream_wait_connect", freezeframe.PeerWait},
	{"inet_stream_connect", freezeframe.PeerWait},
	{"inet_wait_for_connect", freezeframe.PeerWait},
	{"inet_csk_accept", freezeframe.Idle},
	{"inet_csk_wait_for_connect", freezeframe.Idle},
	{"unix_accept", freezeframe.Idle},
	{"sk_wait_data", freezeframe.PeerWait},
	{"tcp_recvmsg", freezeframe.PeerWait},
	{"unix_stream_read_generic", freezeframe.PeerWait},
	{"unix_stream_data_wait", freezeframe.PeerWait},
	{"skb_wait_for_more_packets", freezeframe.PeerWait},
	{"wait_woken", freezeframe.PeerWait},

	{"futex", freezeframe.UserLock},
	{"ep_poll", freezeframe.Idle},
	{"do_epoll_wait", freezeframe.Idle},
	{"do_sys_poll", freezeframe.Idle},
	{"do_poll", freezeframe.Idle},
	{"poll_schedule_timeout", freezeframe.Idle},
	{"do_select", freezeframe.Idle},
	{"do_sigtimedwait", freezeframe.Idle},
	{"sigsuspend", freezeframe.Idle},
	{"io_cqring_wait", freezeframe.Idle},
	{"do_accept", freezeframe.Idle},
	{"nanosleep", freezeframe.Sleeping},
	{"pause", freezeframe.Sleeping},
	{"kernel_clone", freezeframe.ChildWait},
	{"wait_for_vfork_done", freezeframe.ChildWait},
	{"do_wait", freezeframe.ChildWait},
	{"kernel_wait4", freezeframe.ChildWait},

	{"rwsem_down", freezeframe.KernelLock},
	{"down_read", freezeframe.KernelLock},
	{"down_write", freezeframe.KernelLock},
	{"mutex_lock", freezeframe.KernelLock},
	{"__mutex", freezeframe.KernelLock},
	{"rt_mutex", freezeframe.KernelLock},
	{"fdget_pos", freezeframe.KernelLock},
	{"synchronize_rcu", freezeframe.KernelLock},
	{"__synchronize_srcu", freezeframe.KernelLock},

	// Older kernels show these under io_schedule; newer ones leave it out.
	{"sync_dirty_buffer", freezeframe.DeviceWait},
	{"inode_wait_for_writeback", freezeframe.DeviceWait},
	{"wb_wait_for_completion", freezeframe.DeviceWait},
	{"filemap_get_folio", freezeframe.DeviceWait}, // a page that is being read or written
	{"filemap_get_pages", freezeframe.DeviceWait},
	{"filemap_fdatawait", freezeframe.DeviceWait},
	{"lock_page", freezeframe.DeviceWait},
	{"folio_lock", freezeframe.DeviceWait},
	{"io_schedule", freezeframe.DeviceWait},
	{"folio_wait", freezeframe.DeviceWait},
	{"wait_on_page", freezeframe.DeviceWait},
	{"wait_on_buffer", freezeframe.DeviceWait},
	{"bit_wait_io", freezeframe.DeviceWait},
	{"blk_mq_get_tag", freezeframe.DeviceWait},
	{"rq_qos_wait", freezeframe.DeviceWait},
	{"wbt_wait", freezeframe.DeviceWait},
	{"submit_bio_wait", freezeframe.DeviceWait},
	{"blkdev_", freezeframe.DeviceWait},
	{"dio_", freezeframe.DeviceWait},
	{"blk_", freezeframe.DeviceWait},
}

// faulting are the functions of a page fault that reads a file's page back:
// the thread wanted memory, not a file.
var faulting = []string{"filemap_fault", "__do_fault", "do_read_fault"}

// signClass is the class of one function name or stack by the table.
func signClass(where string) (freezeframe.Class, bool) {
	for i := range signs {
		if strings.Contains(where, signs[i].part) {
			return signs[i].class, true
		}
	}
	return "", false
}

// class puts a thread that does not run into a class. A stack decides; without
// one (no rights to read it) the wait channel has to.
func (p *place) class() freezeframe.Class {
	switch p.state {
	case 'T', 't':
		return freezeframe.Stopped
	case 'Z', 'X', 'x':
		return freezeframe.Unseen
	}
	where := p.stack
	if where == "" {
		where = p.wchan
	} else if p.wchan != "" && !strings.Contains(where, p.wchan) {
		where = p.wchan + "<-" + where
	}
	if innermost, _, _ := strings.Cut(where, "<-"); p.state == 'S' && innermost == "get_signal" {
		// The freezer of cgroup v2 where do_freezer_trap was inlined (Debian's
		// 6.1). Whatever else waits below get_signal is stopped, or innermost.
		return freezeframe.Frozen
	}
	class, ok := signClass(where)
	if !ok {
		// The name of the system call is better than nothing.
		class, ok = syscallClass[p.syscall]
	}
	if !ok {
		if p.state == 'D' && where != "" {
			return freezeframe.KernelLock
		}
		return freezeframe.Unseen
	}
	if class == freezeframe.DeviceWait || class == freezeframe.FilesystemWait && strings.Contains(where, "folio_wait") {
		for _, f := range faulting {
			if strings.Contains(where, f) && !strings.Contains(where, "fuse_") {
				return freezeframe.SwapIn
			}
		}
	}
	return class
}

// syscallClass is used where neither stack nor wait channel can be read.
var syscallClass = map[string]freezeframe.Class{
	"futex": freezeframe.UserLock, "flock": freezeframe.FileLock,
	"nanosleep": freezeframe.Sleeping, "clock_nanosleep": freezeframe.Sleeping,
	"epoll_wait": freezeframe.Idle, "epoll_pwait": freezeframe.Idle, "epoll_pwait2": freezeframe.Idle,
	"poll": freezeframe.Idle, "ppoll": freezeframe.Idle, "select": freezeframe.Idle, "pselect6": freezeframe.Idle,
	"accept": freezeframe.Idle, "accept4": freezeframe.Idle,
	"rt_sigtimedwait": freezeframe.Idle, "rt_sigsuspend": freezeframe.Idle, "pause": freezeframe.Sleeping,
	"wait4": freezeframe.ChildWait, "waitid": freezeframe.ChildWait, "vfork": freezeframe.ChildWait,
	"recvfrom": freezeframe.PeerWait, "recvmsg": freezeframe.PeerWait, "connect": freezeframe.PeerWait,
	"fsync": freezeframe.FilesystemWait, "fdatasync": freezeframe.FilesystemWait, "syncfs": freezeframe.FilesystemWait,
}
