package kernel

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNetns runs do on a thread of its own that has entered the network
// namespace behind path (/proc/PID/ns/net). What do opens stays in that
// namespace; the thread is thrown away, because one that failed to come back
// would poison whatever goroutine got it next. A process that some goroutine
// started with Pdeathsig dies with it, if it was started on that thread: do not
// use Pdeathsig in a program that calls this. Entering takes CAP_SYS_ADMIN.
func InNetns(path string, do func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	done := make(chan error)
	var work func()
	work = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// Except for the first thread, which the runtime cannot end: in another
			// namespace it would take /proc/self there. Hold it while another
			// thread is found.
			again := make(chan struct{})
			go func() {
				defer close(again)
				work()
			}()
			<-again
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace %s: %w", path, err)
			return
		}
		done <- do()
	}
	go work()
	return <-done
}

// NetnsInode returns the inode that names the network namespace behind path.
func NetnsInode(path string) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return uint32(st.Ino), nil
}
