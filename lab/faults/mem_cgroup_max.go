package faults

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var memCgroupMax = []lab.Fault{
	{
		Name:      "mem.cgroup_max/at-limit",
		Cause:     "mem.cgroup_max",
		About:     "a helper grows to the memory limit of a Go service's cgroup, whose OOM killer is off: who allocates waits",
		MissAbout: "it grows to 60 % of the limit",
		Needs:     needs(root, controllerV1("memory"), noOOMKill),
		Shortest:  600 * time.Millisecond, // growing takes its time
		Run:       func(s *lab.Scene) { growToLimit(s, 400) },
		Miss:      func(s *lab.Scene) { growToLimit(s, 60) },
		Roles:     map[string]func([]string){"grower": grower},
	},
	{
		Name:      "mem.cgroup_max/page-cache",
		Cause:     "mem.cgroup_max",
		About:     "a helper in the cgroup writes a large file to a disk of 10 MB/s; what the service allocates has to wait until some of it is written out",
		MissAbout: "the same file in a cgroup without a limit",
		Needs:     needs(root, controllerV1("memory"), controllerV1("blkio"), program("mkfs.ext4", "losetup")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { churnCache(s, 40<<20) },
		Miss:      func(s *lab.Scene) { churnCache(s, -1) },
		Roles:     map[string]func([]string){"cachechurn": cacheChurner},
	},
}

// noOOMKill needs memory.oom_control, which later kernels may drop.
func noOOMKill() error {
	_, err := os.Stat("/sys/fs/cgroup/memory/memory.oom_control")
	return err
}

func growToLimit(s *lab.Scene, mib int) {
	group := s.Cgroup("memory")
	group.Set("memory.limit_in_bytes", strconv.Itoa(100<<20))
	group.Set("memory.oom_control", "1")
	place := lab.Place{Cgroups: []string{group.Dir}}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"refault:256"}}, place)
	helper := s.Start(lab.Cmd{Name: "importer", Role: "grower", Args: []string{strconv.Itoa(mib)}, Place: place})
	s.BlameGroup(helper)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", helper), killing(s, helper))
}

// grower fills so many MiB when told to go.
func grower(args []string) {
	mib, _ := strconv.Atoi(args[0])
	lab.Listen("", func(string) {
		b, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
	})
}

func churnCache(s *lab.Scene, limit int) {
	fs := s.LoopFS(640, "-O", "^has_journal")
	group := s.Cgroup("memory")
	place := lab.Place{Cgroups: []string{group.Dir}}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"refault:2048"}}, place)
	helper := s.Start(lab.Cmd{Name: "importer", Role: "cachechurn", Args: []string{fs.Path("import.tmp")}, Place: place})
	group.Set("memory.limit_in_bytes", strconv.Itoa(limit))
	s.BlameGroup(helper)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	const rate = "blkio.throttle.write_bps_device"
	s.Throttle(fs, rate, 10<<20)
	s.Break(saying(s, "go", helper), func() {
		s.Throttle(fs, rate, 0)
		killing(s, helper)()
	})
}

// cacheChurner overwrites a file of 512 MiB from 32 threads when told to go.
func cacheChurner(args []string) {
	lab.Listen("", func(string) {
		for i := range int64(32) {
			go func() {
				fd, err := unix.Open(args[0], unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
				if err != nil {
					return
				}
				block := make([]byte, 1<<20)
				for {
					for at := range int64(16) {
						_, _ = unix.Pwrite(fd, block, (i*16+at)<<20)
					}
				}
			}()
		}
	})
}
