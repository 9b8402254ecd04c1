package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Who looks behind the disk may as well name the filesystem of its file.
var behindDisk = []string{"fs.fuse_unresponsive"}

var ioDeviceHung = []lab.Fault{
	{
		Name:      "io.device_hung/reads",
		Cause:     "io.device_hung",
		AlsoOK:    behindDisk,
		About:     "a disk whose backing store stops answering (a loop device over a file of a FUSE daemon) under a Go service that reads 4 KiB of it per request",
		MissAbout: "the store takes 5 ms for each request",
		Needs:     needs(root, fuseDevice, program("losetup")),
		Shortest:  700 * time.Millisecond,
		Run:       func(s *lab.Scene) { storeFault(s, "direct", "hang", "go") },
		Miss:      func(s *lab.Scene) { storeFault(s, "direct", "take 5ms", "take 0s") },
		Roles:     map[string]func([]string){"diskstore": diskStore},
	},
	{
		Name:      "io.device_hung/journal",
		Cause:     "io.device_hung",
		AlsoOK:    behindDisk,
		About:     "such a disk stops under an ext4 on which a Go service syncs a record per request",
		MissAbout: "the store takes 2 ms for each request",
		Needs:     needs(root, fuseDevice, program("losetup", "mkfs.ext4")),
		Shortest:  700 * time.Millisecond,
		Run:       func(s *lab.Scene) { storeFault(s, "fsync", "hang", "go") },
		Miss:      func(s *lab.Scene) { storeFault(s, "fsync", "take 2ms", "take 0s") },
	},
	{
		Name:      "io.device_hung/dm-suspend",
		Cause:     "io.device_hung",
		About:     "a disk of the device mapper is suspended under a Go service, a unit of systemd, that reads 4 KiB of it per request",
		MissAbout: "it is suspended for as long as that takes, and resumed",
		Needs:     needs(root, units, mapper("linear")),
		Run:       func(s *lab.Scene) { mapped(s, (*lab.Mapped).Suspend, (*lab.Mapped).Resume) },
		Miss:      func(s *lab.Scene) { mapped(s, func(m *lab.Mapped) { m.Suspend(); m.Resume() }, func(*lab.Mapped) {}) },
	},
}

// storeFault tells the store of a service's disk what to do at the fault's edges.
func storeFault(s *lab.Scene, work, begin, end string) {
	mount := filepath.Join(s.Dir, "store")
	s.Check(os.Mkdir(mount, 0o755))
	s.Later("umount", mount)
	store := s.Start(lab.Cmd{Name: "blockstore", Role: "diskstore", Args: []string{mount, "64"}})
	disk := s.LoopOver(filepath.Join(mount, "disk"), "--direct-io=on")
	on := disk.Device
	if work == "fsync" {
		s.MakeFS(disk)
		on = disk.Path("records")
	}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{work + ":" + on}}, lab.Place{})
	s.Blame(lab.Guilty{Devices: []string{disk.Name}, Mounts: []string{mount}})
	s.BlameGroup(store)
	s.Watch(svc)
	s.Break(saying(s, begin, store), saying(s, end, store))
}

// diskStore serves a directory with one file, "disk", of so many MiB in memory.
// It does not answer between "hang" and "go", and takes its time after "take".
func diskStore(args []string) {
	mib, _ := strconv.Atoi(args[1])
	memory, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	file := &storeFile{memory: memory}
	timeout := time.Hour
	server, err := fs.Mount(args[0], &storeDir{file: file}, &fs.Options{
		AttrTimeout: &timeout, EntryTimeout: &timeout,
		MountOptions: fuse.MountOptions{FsName: "blockstore", Name: "blockstore", DirectMount: true, MaxBackground: 64},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount:", err)
		os.Exit(1)
	}
	lab.Listen("", func(line string) {
		switch what, took, _ := strings.Cut(strings.TrimSpace(line), " "); what {
		case "hang":
			file.gate.Lock()
		case "go":
			file.gate.Unlock()
		case "take":
			d, _ := time.ParseDuration(took)
			file.mu.Lock()
			file.delay = d
			file.mu.Unlock()
		}
	})
	_ = server.Unmount()
}

type storeDir struct {
	fs.Inode
	file *storeFile
}

var _ fs.NodeOnAdder = (*storeDir)(nil)

func (d *storeDir) OnAdd(ctx context.Context) {
	d.AddChild("disk", d.NewPersistentInode(ctx, d.file, fs.StableAttr{Mode: syscall.S_IFREG}), true)
}

type storeFile struct {
	fs.Inode
	gate   sync.RWMutex
	mu     sync.Mutex
	delay  time.Duration
	memory []byte
}

var (
	_ fs.NodeOpener    = (*storeFile)(nil)
	_ fs.NodeReader    = (*storeFile)(nil)
	_ fs.NodeWriter    = (*storeFile)(nil)
	_ fs.NodeFsyncer   = (*storeFile)(nil)
	_ fs.NodeGetattrer = (*storeFile)(nil)
)

// pass takes as long as an answer does now.
func (f *storeFile) pass() {
	f.mu.Lock()
	d := f.delay
	f.mu.Unlock()
	time.Sleep(d)
	f.gate.RLock()
	//lint:ignore SA2001 passing is all
	f.gate.RUnlock()
}

func (f *storeFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *storeFile) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.pass()
	if off >= int64(len(f.memory)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, f.memory[off:])]), 0
}

func (f *storeFile) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	f.pass()
	if off >= int64(len(f.memory)) {
		return 0, syscall.ENOSPC
	}
	return uint32(copy(f.memory[off:], data)), 0
}

func (f *storeFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.pass()
	return 0
}

func (f *storeFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Size, out.Mode = uint64(len(f.memory)), 0o600
	return 0
}
