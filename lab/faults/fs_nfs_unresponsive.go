package faults

import (
	"os"
	"path/filepath"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var fsNFSUnresponsive = []lab.Fault{
	{
		Name:      "fs.nfs_unresponsive/server-stopped",
		Cause:     "fs.nfs_unresponsive",
		About:     "the NFS server of a hard mount is stopped, and started again; a Go service, a unit of systemd, opens and reads a file there for each request",
		MissAbout: "the service reads a file of its own disk",
		Needs:     needs(root, units, lab.NeedsNFS, program("mkfs.ext4", "losetup")),
		Shortest:  1500 * time.Millisecond, // stopping it takes its time
		Run:       func(s *lab.Scene) { nfsGone(s, true) },
		Miss:      func(s *lab.Scene) { nfsGone(s, false) },
	},
}

// nfsGone stops the server while the service reads from its share, or while
// nobody does.
func nfsGone(s *lab.Scene, there bool) {
	share := s.NFS(16)
	dir := s.Dir
	if there {
		dir = share.Mount
	}
	file := filepath.Join(dir, "prices")
	s.Check(os.WriteFile(file, make([]byte, 64<<10), 0o644))
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"read:" + file}}, s.Unit())
	s.Blame(lab.Guilty{Mounts: []string{share.Mount}, Addresses: []string{"127.0.0.1"}})
	s.Watch(svc)
	var start func()
	s.Break(func() { start = share.Stop() }, func() { start() })
}
