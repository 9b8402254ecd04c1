package probes

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

const (
	// forkEvery is what starting a process costs: about 1.5 ms of CPU, parent
	// and child together, so once in two seconds.
	forkEvery = 2 * time.Second
	forkFloor = 150 * time.Millisecond
	forkKill  = 30 * time.Second
)

// fork starts a program that does nothing and waits for its end. It is late
// or refused when processes cannot start: at a pids limit (EAGAIN), without
// memory (ENOMEM), while a lock of the cgroup tree is held, or when the
// program has to come from a disk that does not answer. Users cannot log in,
// cron jobs do not start, servers that fork do not serve.
type fork struct{ hub *hub }

func (p *fork) Name() string { return "fork" }

// Run starts processes until ctx ends. A child that does not end is killed
// after half a minute, and no other is started until it is gone.
func (p *fork) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	path := ""
	for _, try := range []string{"/bin/true", "/usr/bin/true", "/bin/busybox"} {
		if unix.Access(try, unix.X_OK) == nil {
			path = try
			break
		}
	}
	if path == "" {
		return fmt.Errorf("find a program to start: no /bin/true: %w", freezeframe.ErrNotHere)
	}
	j := &job{hub: p.hub, probe: p.Name(), target: path,
		loop: func(w *worker) { forkLoop(ctx, w, path) },
	}
	if err := j.start(ctx, plan{every: int64(forkEvery), backoff: 20, floor: int64(forkFloor)}, late); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// forkLoop is the one loop that the Go runtime knows about, since starting a
// process safely needs its help.
//
//go:norace
func forkLoop(ctx context.Context, w *worker, path string) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Duration(w.due - int64(kernel.Now())))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		w.began = int64(kernel.Now())
		w.finish(uintptr(spawn(path)))
	}
}

// spawn starts path and waits for it.
func spawn(path string) unix.Errno {
	pid, err := syscall.ForkExec(path, []string{"true"}, &syscall.ProcAttr{Dir: "/", Env: []string{}})
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return errno
		}
		return unix.EIO
	}
	// Until Wait4 has returned the pid is the child's and no one else's.
	kill := time.AfterFunc(forkKill, func() { syscall.Kill(pid, syscall.SIGKILL) })
	defer kill.Stop()
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return 0
		}
	}
}
