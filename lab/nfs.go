package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const (
	nfsThreads = "/proc/fs/nfsd/threads" // of the kernel's server; the kernel's Documentation/admin-guide/nfs/nfsd-admin-interfaces.rst
	nfsServer  = "nfs-server.service"
)

// NFS is a share of this machine's own kernel server, mounted by loopback.
type NFS struct {
	Mount string // where it is mounted, hard
	s     *Scene
}

// NeedsNFS says why this machine cannot serve itself by NFS.
func NeedsNFS() error {
	for _, name := range []string{"rpc.nfsd", "exportfs", "mount.nfs"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("needs Debian's nfs-kernel-server: %w", err)
		}
	}
	if n, err := os.ReadFile(nfsThreads); err == nil && strings.TrimSpace(string(n)) != "0" {
		return fmt.Errorf("the kernel's NFS server has %s threads: it serves others, and is not to be stopped", strings.TrimSpace(string(n)))
	}
	return nil
}

// NFS makes one over an ext4 in a file. It is of version 3, whose clients go on
// as soon as the server is there again.
func (s *Scene) NFS(megabytes int) *NFS {
	fs := s.LoopFS(megabytes)
	s.lab.janitor.later("stopserver", nfsServer)
	s.Check(command("systemctl", "unmask", "--runtime", "--quiet", "rpcbind.socket", "rpcbind.service", nfsServer)) // where the virtual machine keeps them from its start
	s.Check(command("systemctl", "start", nfsServer))
	share := "127.0.0.1:" + fs.Mount
	s.lab.janitor.later("unexport", share)
	s.Check(command("exportfs", "-o", "rw,insecure,no_root_squash,no_subtree_check", share))
	n := &NFS{Mount: s.file("share"), s: s}
	s.Check(os.Mkdir(n.Mount, 0o755))
	s.lab.janitor.later("umount", n.Mount)
	s.Check(command("mount", "-t", "nfs", "-o", "vers=3,nolock,hard,proto=tcp", share, n.Mount))
	return n
}

// Stop ends the threads of the server, which closes its connections; what it
// returns starts them again.
func (n *NFS) Stop() (start func()) {
	undo := n.s.lab.janitor.later("nfsd", "4")
	n.s.Check(undoOps["nfsd"]([]string{"0"}))
	return func() { n.s.Check(undo()) }
}

// unexport takes a share back.
func unexport(a []string) error {
	err := command("exportfs", "-u", a[0])
	if err != nil && strings.Contains(err.Error(), "Could not find") {
		return nil
	}
	return err
}
