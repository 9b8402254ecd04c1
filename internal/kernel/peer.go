package kernel

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a Unix socket, as it was when it
// connected: what it became since does not matter.
type Peer struct {
	PID      int // 0 where it is in a PID namespace that this process does not see
	UID, GID uint32
	// Groups are the supplementary ones; nil where the kernel does not tell
	// (before 4.13).
	Groups []uint32
}

// In tells whether the peer is a member of a group.
func (p *Peer) In(gid uint32) bool { return p.GID == gid || slices.Contains(p.Groups, gid) }

// maxGroups is NGROUPS_MAX.
const maxGroups = 65536

// PeerOf returns who is at the other end of a connected Unix socket
// (SO_PEERCRED and SO_PEERGROUPS of unix(7)).
func PeerOf(fd int) (Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("ask who is at the other end of the socket: %w", os.NewSyscallError("getsockopt", err))
	}
	p := Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}
	groups := make([]uint32, 32)
	for {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(pointer(&groups[0])), uintptr(pointer(&size)), 0)
		switch {
		case errno == 0:
			p.Groups = groups[:size/4]
			return p, nil
		case errno == unix.ERANGE && int(size/4) > len(groups) && size/4 <= maxGroups:
			groups = make([]uint32, size/4) // as many as it said there are
		case errno == unix.ENOPROTOOPT || errno == unix.ENODATA:
			return p, nil
		default:
			return Peer{}, fmt.Errorf("ask for the groups of who is at the other end of the socket: %w", os.NewSyscallError("getsockopt", errno))
		}
	}
}
