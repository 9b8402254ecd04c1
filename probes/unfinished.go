package probes

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	gonet "github.com/shirou/gopsutil/v3/net"
	"golang.org/x/sys/unix"

	"freezeframe"
)

// unfinished tells of requests in flight, beside others that were answered,
// whether their threads read on from the same client: half a request and a whole
// one without an answer look the same from outside, but who reads on waits for
// the client, and not the client for it. It belongs to the goroutine that passes
// reports on.
type unfinished struct {
	at     map[uint64]half // by thread
	pid    uint64
	ports  map[string]uint32 // the local ports of that process's TCP connections, by "socket:[inode]"
	listed time.Time         // when they were read
}

// half is a request that its thread reads on.
type half struct {
	began freezeframe.Instant
	reads bool
}

// listAgain is how long no process's connections are listed again: a table of
// fifty thousand takes a tenth of a second to read.
const listAgain = time.Second

// look takes away what a report says of a request that is not whole.
func (u *unfinished) look(r *report, address string) {
	if r.kind != waitAnswer || r.tid == 0 || r.quality < 0.5 || !r.partly {
		return
	}
	if u.at == nil || len(u.at) >= 1024 {
		u.at = make(map[uint64]half)
	}
	h := u.at[r.tid]
	if r.done == 0 {
		h = half{r.began, u.readsOn(r.pid, r.tid, address)}
		u.at[r.tid] = h
	}
	if h.reads && h.began == r.began {
		r.quality = lonely
	}
}

// readsOn tells whether a thread is in a read from a connection to an address of
// its host that is its service's.
func (u *unfinished) readsOn(pid, tid uint64, address string) bool {
	at, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
	if err != nil {
		return false
	}
	call, fd, ok := firstArgument(string(at))
	if !ok || !readCalls[call] {
		return false
	}
	if time.Since(u.listed) >= listAgain {
		u.pid, u.ports, u.listed = pid, localPorts(pid), time.Now()
	}
	port := u.ports[fileOf(pid, fd)]
	return u.pid == pid && port != 0 && strings.HasSuffix(address, ":"+strconv.FormatUint(uint64(port), 10))
}

// readCalls are the system calls that read from a socket and name it first.
var readCalls = map[int64]bool{unix.SYS_READ: true, unix.SYS_READV: true, unix.SYS_RECVFROM: true, unix.SYS_RECVMSG: true}

// firstArgument returns the number and the first argument of the system call
// that a thread is in, from its /proc/PID/task/TID/syscall: "0 0x5 …"; not ok
// when it is in none, or runs.
func firstArgument(text string) (call int64, argument uint64, ok bool) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return 0, 0, false
	}
	call, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil || call < 0 {
		return 0, 0, false
	}
	argument, err = strconv.ParseUint(words[1], 0, 64)
	return call, argument, err == nil
}

// localPorts returns the local port of each TCP connection that a process has,
// by its file; none where that cannot be read.
func localPorts(pid uint64) map[string]uint32 {
	out := map[string]uint32{}
	conns, err := gonet.ConnectionsPidWithoutUids("tcp", int32(pid))
	if err != nil {
		return out // the process is gone, or is another user's
	}
	for i := range conns {
		// Of several descriptors of a connection only one is told.
		if file := fileOf(pid, uint64(conns[i].Fd)); file != "" {
			out[file] = conns[i].Laddr.Port
		}
	}
	return out
}

// fileOf returns what a descriptor of a process is, "socket:[4711]"; "" where
// that cannot be read.
func fileOf(pid, fd uint64) string {
	file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if err != nil {
		return ""
	}
	return file
}
