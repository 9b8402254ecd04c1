package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var ioDeviceSaturated = []lab.Fault{
	{
		Name:      "io.device_saturated/slow-disk",
		Cause:     "io.device_saturated",
		About:     "a disk of 20 MB/s: a backup reads large blocks from it, deep in the queue, beside a Go service that reads 4 KiB per request",
		MissAbout: "the backup reads one small block after the other",
		Needs:     needs(root, controller("blkio"), program("losetup")),
		Shortest:  800 * time.Millisecond,
		Run: func(s *lab.Scene) {
			saturate(s, "32", "1024", func(l *lab.LoopFS) { s.Throttle(l, "blkio.throttle.read_bps_device", 20<<20) })
		},
		Miss: func(s *lab.Scene) {
			saturate(s, "1", "4", func(l *lab.LoopFS) { s.Throttle(l, "blkio.throttle.read_bps_device", 20<<20) })
		},
		Roles: map[string]func([]string){"directreader": directReader},
	},
	{
		Name:      "io.device_saturated/dd-writes",
		Cause:     "io.device_saturated",
		About:     "a disk that writes 20 MB/s: eight dd write blocks of 2 MiB past the page cache, beside a Go service that writes 4 KiB per request so",
		MissAbout: "one dd writes 16 blocks of 4 KiB",
		Needs:     needs(root, controller("blkio"), program("losetup", "dd")),
		Shortest:  800 * time.Millisecond,
		Run:       func(s *lab.Scene) { ddWrites(s, 8, "2M", 24) },
		Miss:      func(s *lab.Scene) { ddWrites(s, 1, "4k", 16) },
	},
	{
		Name:      "io.device_saturated/behind-a-lock",
		Cause:     "io.device_saturated",
		AlsoOK:    []string{"fs.journal_commit"}, // of the disk that is full: who filled it is the same
		About:     "a disk that writes 20 MB/s: eight dd write blocks of 2 MiB to it, beside a threaded Python service that syncs a record per request, one thread at a time under a lock of its own",
		MissAbout: "one dd writes 16 blocks of 4 KiB",
		Needs:     needs(root, controller("blkio"), program("mkfs.ext4", "losetup", "dd", "python3")),
		Shortest:  1200 * time.Millisecond,
		Run:       func(s *lab.Scene) { behindALock(s, 8, "2M", 40) },
		Miss:      func(s *lab.Scene) { behindALock(s, 1, "4k", 16) },
	},
}

// behindALock is a chain of three: a thread waits for a lock, whose holder
// waits for its record to be on a disk, which somebody else keeps busy.
func behindALock(s *lab.Scene, jobs int, block string, count int) {
	fs := s.LoopFS(768)
	const rate = "blkio.throttle.write_bps_device"
	s.Throttle(fs, rate, 20<<20)
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"locked:fsync:" + fs.Path("records")}}, lab.Place{})
	dds := shells(s, jobs, func(i int) string {
		return fmt.Sprintf("exec dd if=/dev/zero of=%s.%d bs=%s count=%d oflag=direct status=none", fs.Path("copy"), i, block, count)
	})
	s.BlameGroup(dds...)
	s.Blame(lab.Guilty{Swarms: []string{"dd"}, Devices: []string{fs.Name}})
	s.Watch(svc)
	s.Break(saying(s, "go", dds...), func() {
		for _, dd := range dds {
			if err := dd.Signal(syscall.SIGKILL); err != nil && err != syscall.ESRCH { // it may be done
				s.Check(err)
			}
		}
		s.Throttle(fs, rate, 0) // the dying wait for what they have under way
	})
}

func saturate(s *lab.Scene, threads, kib string, slow func(*lab.LoopFS)) {
	disk := s.Loop(512)
	slow(disk)
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"direct:" + disk.Device}}, lab.Place{})
	job := s.Start(lab.Cmd{Name: "backup", Role: "directreader", Args: []string{disk.Device, threads, kib}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Devices: []string{disk.Name}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

func ddWrites(s *lab.Scene, jobs int, block string, count int) {
	disk := s.Loop(512)
	const rate = "blkio.throttle.write_bps_device"
	s.Throttle(disk, rate, 20<<20)
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"directwrite:" + disk.Device}}, lab.Place{})
	dds := shells(s, jobs, func(i int) string {
		return fmt.Sprintf("exec dd if=/dev/zero of=%s bs=%s count=%d seek=%d oflag=direct conv=notrunc status=none", disk.Device, block, count, i*count)
	})
	s.BlameGroup(dds...)
	s.Blame(lab.Guilty{Devices: []string{disk.Name}})
	s.Watch(svc)
	s.Break(saying(s, "go", dds...), func() {
		for _, dd := range dds {
			if err := dd.Signal(syscall.SIGKILL); err != nil && err != syscall.ESRCH { // it may be done
				s.Check(err)
			}
		}
		s.Throttle(disk, rate, 0) // the dying wait for what they have under way
	})
}

// directReader reads blocks past the page cache when told to go.
func directReader(args []string) {
	threads, _ := strconv.Atoi(args[1])
	kib, _ := strconv.Atoi(args[2])
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	size, _ := unix.Seek(fd, 0, 2)
	lab.Listen("", func(line string) {
		if !strings.HasPrefix(line, "go") {
			return
		}
		for range threads {
			go func() {
				buf, err := unix.Mmap(-1, 0, kib<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
				if err != nil {
					return
				}
				blocks := size / int64(len(buf))
				for {
					_, _ = unix.Pread(fd, buf, rand.Int64N(blocks)*int64(len(buf)))
					if threads == 1 {
						time.Sleep(5 * time.Millisecond)
					}
				}
			}()
		}
	})
}
