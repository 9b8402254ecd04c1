package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var kernelLockContention = []lab.Fault{
	{
		Name:      "kernel.lock_contention/inode-write",
		Cause:     "kernel.lock_contention",
		About:     "a process writes 1.5 GiB to a tmpfs file in single calls, which hold the inode's lock; a threaded Python service appends to the same file",
		MissAbout: "it writes 1 MiB per call",
		Needs:     program("python3"),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { bigWrites(s, "1536") },
		Miss:      func(s *lab.Scene) { bigWrites(s, "1") },
		Roles:     map[string]func([]string){"bigwriter": bigWriter},
	},
	{
		Name:      "kernel.lock_contention/fallocate",
		Cause:     "kernel.lock_contention",
		About:     "a script allocates and punches out 1.5 GiB of a tmpfs file in single calls, which hold the inode's lock; a Go service appends to the same file",
		MissAbout: "4 MiB per call, ten times a second",
		Needs:     program("fallocate"),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { allocates(s, "1536", "0") },
		Miss:      func(s *lab.Scene) { allocates(s, "4", "0.1") },
	},
}

func bigWrites(s *lab.Scene, mib string) {
	dir := filepath.Join("/dev/shm", s.Name("log"))
	s.Later("rm", dir)
	s.Check(os.Mkdir(dir, 0o755))
	file := filepath.Join(dir, "events")
	s.Check(os.WriteFile(file, nil, 0o644))
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"append:" + file}}, lab.Place{})
	job := s.Start(lab.Cmd{Name: "compactor", Role: "bigwriter", Args: []string{file, mib}})
	s.BlameGroup(job)
	s.Watch(svc)
	s.Break(saying(s, "go", job), func() {
		_, err := job.Ask("stop", 10*time.Second)
		s.Check(err)
	})
}

// bigWriter overwrites the start of a file between "go" and "stop", so much
// per call.
func bigWriter(args []string) {
	fd, err := unix.Open(args[0], unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mib int
	_, _ = fmt.Sscan(args[1], &mib)
	block := make([]byte, min(mib, 4)<<20)
	var iovs [][]byte
	for n := 0; n < mib<<20; n += len(block) {
		iovs = append(iovs, block)
	}
	write := func() {
		if n, err := unix.Pwritev(fd, iovs, 0); n != mib<<20 {
			fmt.Fprintln(os.Stderr, "wrote", n, err)
			os.Exit(1)
		}
	}
	write() // the pages are there from now on
	var stop, stopped chan struct{}
	lab.Listen("", func(line string) {
		if line == "stop" {
			close(stop)
			<-stopped
			fmt.Println("stopped")
			return
		}
		stop, stopped = make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					write()
					if mib == 1 {
						time.Sleep(5 * time.Millisecond)
					}
				}
			}
		}()
	})
}

func allocates(s *lab.Scene, mib, pause string) {
	dir := filepath.Join("/dev/shm", s.Name("log"))
	s.Later("rm", dir)
	s.Check(os.Mkdir(dir, 0o755))
	file := filepath.Join(dir, "events")
	s.Check(os.WriteFile(file, nil, 0o644))
	s.Check(os.Truncate(file, 1536<<20))
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"append:" + file}}, lab.Place{})
	job := s.Start(shell(fmt.Sprintf("while :; do fallocate -n -l %[2]sM %[1]s; fallocate -p -l %[2]sM %[1]s; sleep %[3]s; done", file, mib, pause)))
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Swarms: []string{"fallocate"}}) // one call, one process
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}
