package probes

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
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
	ports  map[string]uint64
	listed time.Time // when the sockets of a process were last listed
}

// half is a request that its thread reads on.
type half struct {
	began freezeframe.Instant
	reads bool
}

// listAgain is how long the sockets of a process are not listed again: a table
// of fifty thousand takes a tenth of a second to read.
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
	dir := filepath.Join("/proc", strconv.FormatUint(pid, 10))
	at, err := os.ReadFile(filepath.Join(dir, "task", strconv.FormatUint(tid, 10), "syscall"))
	if err != nil {
		return false
	}
	call, fd, ok := firstArgument(string(at))
	if !ok || !readCalls[call] {
		return false
	}
	file, err := os.Readlink(filepath.Join(dir, "fd", strconv.FormatUint(fd, 10)))
	if err != nil || !strings.HasPrefix(file, "socket:[") {
		return false
	}
	inode := strings.Trim(file[len("socket:"):], "[]")
	if _, known := u.ports[inode]; !known && time.Since(u.listed) >= listAgain {
		u.ports, u.listed = localPorts(dir), time.Now()
	}
	port, known := u.ports[inode]
	return known && port != 0 && strings.HasSuffix(address, ":"+strconv.FormatUint(port, 10))
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

// localPorts returns the local port of every TCP socket in the network namespace
// of a process, by inode; what cannot be read is not there.
func localPorts(dir string) map[string]uint64 {
	out := map[string]uint64{}
	fs, err := procfs.NewFS(dir)
	if err != nil {
		return out
	}
	for _, table := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} {
		lines, err := table()
		if err != nil {
			continue
		}
		for _, l := range lines {
			out[strconv.FormatUint(l.Inode, 10)] = l.LocalPort
		}
	}
	return out
}
