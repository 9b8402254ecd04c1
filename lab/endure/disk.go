package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"freezeframe/lab"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

var dataFrozen = condition{
	name: "data-frozen", about: "the filesystem of its data is frozen, as for a snapshot",
	make: func(t *trial) (step, end func()) { return nil, t.Freeze(t.disk.Mount) },
}

var dataFull = condition{
	name: "data-full", about: "the filesystem of its data is full, and what becomes free is taken at once",
	said: true,
	make: func(t *trial) (step, end func()) {
		path := t.disk.Path("filler")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		t.Check(err)
		fill := func() {
			for size := 1 << 20; size >= 512; {
				_, err := f.Write(make([]byte, size))
				switch {
				case errors.Is(err, unix.ENOSPC):
					size /= 2
				case err != nil:
					t.Fail("fill the filesystem: %v", err)
				}
			}
		}
		return fill, func() {
			t.Check(f.Close())
			t.Check(os.Remove(path))
		}
	},
}

// remountMost is how long a filesystem may take to become read-only: it can only
// while nobody has a file open for writing, which a flush and the probe that syncs
// a small file have for a moment at a time.
const remountMost = time.Second

var dataReadOnly = condition{
	name: "data-read-only", about: "the filesystem of its data is mounted again read-only",
	said: true,
	make: func(t *trial) (step, end func()) {
		began := time.Now()
		t.Check(remount(t.disk.Mount, unix.MS_RDONLY, remountMost))
		t.note("read-only after %s", seconds(time.Since(began)))
		return nil, func() { t.Check(remount(t.disk.Mount, 0, time.Second)) }
	},
}

// remount tries until it can be done.
func remount(mount string, flags uintptr, most time.Duration) error {
	var err error
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = unix.Mount("", mount, "", unix.MS_REMOUNT|unix.MS_NOATIME|flags, ""); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("mount %s again: %w", mount, err)
	}
	return nil
}

var dataErrors = condition{
	name: "data-errors", about: "the filesystem of its data (FUSE) answers everything with an I/O error",
	said: true,
	needs: func(rates) error {
		_, err := os.Stat("/dev/fuse")
		return err
	},
	state: func(t *trial) string {
		behind, mount := t.disk.Path("behind"), filepath.Join(t.Dir, "errors")
		t.Check(errors.Join(os.Mkdir(behind, 0o755), os.Mkdir(mount, 0o755)))
		t.Later("umount", mount)
		t.errorFS = t.Start(lab.Cmd{Name: "errorfs", Role: "errorfs", Args: []string{behind, mount}})
		return filepath.Join(mount, "state")
	},
	make: func(t *trial) (step, end func()) {
		t.tell(t.errorFS, "break")
		return nil, func() { t.tell(t.errorFS, "mend") }
	},
	after: func(t *trial) {
		answer, err := t.errorFS.Ask("count", 10*time.Second)
		t.Check(err)
		t.note("%s requests were answered with an error", answer)
		if answer == "0" {
			t.wrong("nothing was asked of the filesystem while it was broken")
		}
	},
}

// tell has a program do something, and waits until it has.
func (t *trial) tell(p *lab.Proc, what string) {
	answer, err := p.Ask(what, 10*time.Second)
	t.Check(err)
	if answer != what {
		t.Fail("%s: told to %s it said %q", p.Name, what, answer)
	}
}

// broken is whether a filesystem answers with errors, and how often it has.
type broken struct {
	now   atomic.Bool
	count atomic.Uint64
}

// errno is the error that a request gets.
func (b *broken) errno() syscall.Errno {
	if !b.now.Load() {
		return fs.OK
	}
	b.count.Add(1)
	return syscall.EIO
}

// errorFS serves the files of a directory at a mount point: BEHIND MOUNT. Between
// "break" and "mend" everything fails.
func errorFS(args []string) {
	b := &broken{}
	server, err := serveErrors(args[0], args[1], b)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.Listen("", func(line string) {
		switch line {
		case "break", "mend":
			b.now.Store(line == "break")
			fmt.Println(line)
		case "count":
			fmt.Println(b.count.Load())
		}
	})
	_ = server.Unmount()
}

// serveErrors mounts what is behind.
func serveErrors(behind, mount string, b *broken) (*fuse.Server, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(behind, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", behind, err)
	}
	data := &fs.LoopbackRoot{Path: behind, Dev: st.Dev}
	top := &errorNode{LoopbackNode: fs.LoopbackNode{RootData: data}, b: b}
	data.RootNode = top
	server, err := fs.Mount(mount, top, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "errorfs", Name: "errorfs", DirectMount: true},
	})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", mount, err)
	}
	return server, nil
}

// errorNode is a file or directory whose every request may fail.
type errorNode struct {
	fs.LoopbackNode
	b *broken
}

// WrapChild makes what is found below it like it.
func (n *errorNode) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &errorNode{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, b: n.b}
}

func (n *errorNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.b.errno(); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *errorNode) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	if errno := n.b.errno(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Statfs(ctx, out)
}

func (n *errorNode) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.b.errno(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Getattr(ctx, f, out)
}

func (n *errorNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.b.errno(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

func (n *errorNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.b.errno(); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

func (n *errorNode) Rmdir(ctx context.Context, name string) syscall.Errno {
	if errno := n.b.errno(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rmdir(ctx, name)
}

func (n *errorNode) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.b.errno(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *errorNode) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, to string, flags uint32) syscall.Errno {
	if errno := n.b.errno(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, parent, to, flags)
}

func (n *errorNode) Create(ctx context.Context, name string, flags uint32, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.b.errno(); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, f, flags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.file(f), flags, errno
}

func (n *errorNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.b.errno(); errno != 0 {
		return nil, 0, errno
	}
	f, flags, errno := n.LoopbackNode.Open(ctx, flags)
	return n.file(f), flags, errno
}

func (n *errorNode) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.b.errno(); errno != 0 {
		return nil, 0, errno
	}
	return n.LoopbackNode.OpendirHandle(ctx, flags)
}

func (n *errorNode) file(f fs.FileHandle) fs.FileHandle {
	if real, ok := f.(*fs.LoopbackFile); ok {
		return &errorFile{LoopbackFile: real, b: n.b}
	}
	return f
}

// errorFile is an open file.
type errorFile struct {
	*fs.LoopbackFile
	b *broken
}

// PassthroughFd keeps the kernel from going to the file behind by itself.
func (f *errorFile) PassthroughFd() (int, bool) { return 0, false }

func (f *errorFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.b.errno(); errno != 0 {
		return nil, errno
	}
	return f.LoopbackFile.Read(ctx, dest, off)
}

func (f *errorFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.b.errno(); errno != 0 {
		return 0, errno
	}
	return f.LoopbackFile.Write(ctx, data, off)
}

func (f *errorFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.b.errno(); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}
