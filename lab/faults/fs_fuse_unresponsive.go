package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

var fsFuseUnresponsive = []lab.Fault{
	{
		Name:      "fs.fuse_unresponsive/daemon-waits",
		Cause:     "fs.fuse_unresponsive",
		About:     "a FUSE daemon waits for its remote store; a threaded Python service appends to a file there",
		MissAbout: "every answer takes 5 ms",
		Needs:     needs(root, fuseDevice, program("python3")),
		Run: func(s *lab.Scene) {
			fuseFault(s, "0s", func(d *lab.Proc) (begin, end func()) { return saying(s, "hang", d), saying(s, "go", d) })
		},
		Miss: func(s *lab.Scene) {
			fuseFault(s, "5ms", func(d *lab.Proc) (begin, end func()) { return func() {}, func() {} })
		},
		Roles: map[string]func([]string){"fusedaemon": fuseDaemon},
	},
	{
		Name:      "fs.fuse_unresponsive/daemon-stopped",
		Cause:     "fs.fuse_unresponsive",
		AlsoOK:    []string{"app.stopped"}, // the daemon is: why it does not answer
		About:     "the FUSE daemon is stopped by SIGSTOP",
		MissAbout: "stopped while nobody uses the mount",
		Needs:     needs(root, fuseDevice, program("python3")),
		Run: func(s *lab.Scene) {
			fuseFault(s, "0s", func(d *lab.Proc) (begin, end func()) {
				s.BlameLab() // it sends the signal
				return func() { s.Check(d.Signal(syscall.SIGSTOP)) }, func() { s.Check(d.Signal(syscall.SIGCONT)) }
			})
		},
		Miss: func(s *lab.Scene) {
			_, d := mountFuse(s, "0s")
			s.Watch(s.Serve(victim.Spec{Kind: victim.Threads}, lab.Place{}))
			s.Break(func() { s.Check(d.Signal(syscall.SIGSTOP)) }, func() { s.Check(d.Signal(syscall.SIGCONT)) })
		},
	},
}

func fuseDevice() error {
	_, err := os.Stat("/dev/fuse")
	return err
}

func fuseFault(s *lab.Scene, delay string, edges func(*lab.Proc) (begin, end func())) {
	mnt, daemon := mountFuse(s, delay)
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"append:" + filepath.Join(mnt, "records")}}, lab.Place{})
	s.BlameGroup(daemon)
	s.Blame(lab.Guilty{Mounts: []string{mnt}})
	s.Watch(svc)
	s.Break(edges(daemon))
}

func mountFuse(s *lab.Scene, delay string) (mount string, daemon *lab.Proc) {
	mount = filepath.Join(s.Dir, "objects")
	s.Check(os.Mkdir(mount, 0o755))
	s.Later("umount", mount)
	return mount, s.Start(lab.Cmd{Name: "objectfs", Role: "fusedaemon", Args: []string{mount, delay}})
}

// fuseDaemon serves a directory of memory files; writes take so long, and do
// not end between "hang" and "go".
func fuseDaemon(args []string) {
	delay, _ := time.ParseDuration(args[1])
	g := &gate{delay: delay}
	root := &memDir{gate: g}
	timeout := time.Second
	server, err := fs.Mount(args[0], root, &fs.Options{
		AttrTimeout: &timeout, EntryTimeout: &timeout,
		MountOptions: fuse.MountOptions{FsName: "objectfs", Name: "objectfs", DirectMount: true},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount:", err)
		os.Exit(1)
	}
	lab.Listen("", func(line string) {
		if line == "hang" {
			g.Lock()
		} else {
			g.Unlock()
		}
	})
	_ = server.Unmount()
}

type gate struct {
	sync.RWMutex
	delay time.Duration
}

func (g *gate) pass() {
	time.Sleep(g.delay)
	g.RLock()
	//lint:ignore SA2001 passing is all
	g.RUnlock()
}

type memDir struct {
	fs.Inode
	gate *gate
}

var _ fs.NodeCreater = (*memDir)(nil)

func (d *memDir) Create(ctx context.Context, name string, _ uint32, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	d.gate.pass()
	f := &memFile{gate: d.gate}
	out.Mode = 0o644
	return d.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG}), nil, fuse.FOPEN_DIRECT_IO, 0
}

type memFile struct {
	fs.Inode
	gate *gate
	mu   sync.Mutex
	size uint64
}

var (
	_ fs.NodeOpener    = (*memFile)(nil)
	_ fs.NodeWriter    = (*memFile)(nil)
	_ fs.NodeGetattrer = (*memFile)(nil)
	_ fs.NodeSetattrer = (*memFile)(nil)
)

func (f *memFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *memFile) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	f.gate.pass()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = max(f.size, uint64(off)+uint64(len(data)))
	return uint32(len(data)), 0
}

func (f *memFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	out.Size, out.Mode = f.size, 0o644
	return 0
}

func (f *memFile) Setattr(_ context.Context, _ fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o644
	return 0
}
