package faults

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var ioFlushStorm = []lab.Fault{
	{
		Name:      "io.flush_storm/write-and-sync",
		Cause:     "io.flush_storm",
		About:     "an import writes and syncs without pause from 16 threads on the disk of a Go service that syncs a record per request; the filesystem has no journal",
		MissAbout: "it syncs 10 times a second, a page each",
		Needs:     needs(root, program("mkfs.ext4", "losetup")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { flushes(s, "16", "16384") },
		Miss:      func(s *lab.Scene) { flushes(s, "1", "4") },
		Roles:     map[string]func([]string){"syncer": syncer},
	},
	{
		Name:      "io.flush_storm/dd-fsync",
		Cause:     "io.flush_storm",
		About:     "twelve shell loops of dd conv=fsync on the disk of a threaded Python service that syncs a record per request; the filesystem has no journal",
		MissAbout: "one dd syncs one block",
		Needs:     needs(root, program("mkfs.ext4", "losetup", "dd", "python3")),
		Shortest:  time.Second,
		Run: func(s *lab.Scene) {
			ddFsync(s, 12, "while :; do dd if=/dev/zero of=$f bs=8M count=2 conv=fsync,notrunc 2>/dev/null; done")
		},
		Miss: func(s *lab.Scene) {
			ddFsync(s, 1, "dd if=/dev/zero of=$f bs=4k count=1 conv=fsync 2>/dev/null; sleep 60")
		},
	},
	{
		Name:      "io.flush_storm/wal",
		Cause:     "io.flush_storm",
		About:     "a Python database writes its log with O_DSYNC from 24 threads, 256 KiB each time, on the disk of a Go service that syncs a record per request; the filesystem has no journal",
		MissAbout: "8 KiB from one thread ten times a second",
		Needs:     needs(root, program("mkfs.ext4", "losetup", "python3")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { writeAhead(s, 24, 256, "0") },
		Miss:      func(s *lab.Scene) { writeAhead(s, 1, 8, "0.1") },
	},
	{
		Name:      "io.flush_storm/cp-sync",
		Cause:     "io.flush_storm",
		About:     "eight shell loops of cp and sync on the disk of a Go service that syncs a record per request; the filesystem has no journal",
		MissAbout: "one copies 4 KiB, once",
		Needs:     needs(root, program("mkfs.ext4", "losetup", "cp", "sync")),
		Shortest:  time.Second,
		Run: func(s *lab.Scene) {
			ddFsync(s, 8, "while :; do cp $f.from $f && sync $f; done")
		},
		Miss: func(s *lab.Scene) { ddFsync(s, 1, "head -c 4k $f.from > $f; sync $f; sleep 60") },
	},
}

func writeAhead(s *lab.Scene, threads, kib int, pause string) {
	fs := s.LoopFS(768, "-O", "^has_journal")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"fsync:" + fs.Path("records")}}, lab.Place{})
	python, err := victim.Python()
	s.Check(err)
	job := s.Start(lab.Cmd{Path: python, Args: []string{"-c", `
import os, sys, threading, time
def write(i):
    fd = os.open("%s.%d" % (sys.argv[1], i), os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
    block = os.urandom(int(sys.argv[3]) << 10)
    at = 0
    while True:
        os.pwrite(fd, block, at)
        at = (at + len(block)) % (16 << 20)
        time.sleep(float(sys.argv[4]))
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[2])):
    threading.Thread(target=write, args=(i,)).start()
`, fs.Path("wal"), strconv.Itoa(threads), strconv.Itoa(kib), pause}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Devices: []string{fs.Name}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

func flushes(s *lab.Scene, threads, kib string) {
	fs := s.LoopFS(768, "-O", "^has_journal")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"fsync:" + fs.Path("records")}}, lab.Place{})
	job := s.Start(lab.Cmd{Name: "import", Role: "syncer", Args: []string{fs.Path("import"), threads, kib}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Devices: []string{fs.Name}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

// syncer writes and syncs a file per thread when told to go.
func syncer(args []string) {
	threads, _ := strconv.Atoi(args[1])
	kib, _ := strconv.Atoi(args[2])
	var fds []int
	for i := range threads {
		fd, err := unix.Open(fmt.Sprintf("%s.%d", args[0], i), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fds = append(fds, fd)
	}
	lab.Listen("", func(string) {
		for _, fd := range fds {
			go func() {
				block := make([]byte, kib<<10)
				for {
					_, _ = unix.Pwrite(fd, block, 0)
					_ = unix.Fsync(fd)
					if threads == 1 {
						time.Sleep(100 * time.Millisecond)
					}
				}
			}()
		}
	})
}

func ddFsync(s *lab.Scene, n int, script string) {
	fs := s.LoopFS(768, "-O", "^has_journal")
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"fsync:" + fs.Path("records")}}, lab.Place{})
	jobs := shells(s, n, func(i int) string {
		from := fmt.Sprintf("%s.%d.from", fs.Path("part"), i)
		if strings.Contains(script, "$f.from") {
			s.Check(os.WriteFile(from, make([]byte, 4<<20), 0o644))
		}
		return fmt.Sprintf("f=%s; %s", strings.TrimSuffix(from, ".from"), script)
	})
	s.BlameGroup(jobs...)
	s.Blame(lab.Guilty{Swarms: []string{"dd", "cp", "sync"}, Devices: []string{fs.Name}})
	s.Watch(svc)
	s.Break(saying(s, "go", jobs...), killing(s, jobs...))
}
