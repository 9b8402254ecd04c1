package faults

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var fsDirtyThrottled = []lab.Fault{
	{
		Name:      "fs.dirty_throttled/slow-disk",
		Cause:     "fs.dirty_throttled",
		About:     "an export dirties pages of a disk of 4 MB/s up to the disk's dirty limit; a threaded Python service that appends to a log there is paced",
		MissAbout: "an export of 256 KiB",
		Needs:     needs(root, controllerV1("blkio"), program("mkfs.ext4", "losetup", "python3")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { dirty(s, "all") },
		Miss:      func(s *lab.Scene) { dirty(s, "little") },
		Roles:     map[string]func([]string){"exporter": exporter},
	},
	{
		Name:      "fs.dirty_throttled/dd",
		Cause:     "fs.dirty_throttled",
		About:     "four dd dirty pages of a disk of 6 MB/s up to the disk's dirty limit; a Go service that appends to a log there is paced",
		MissAbout: "one dd of 256 KiB",
		Needs:     needs(root, controllerV1("blkio"), program("mkfs.ext4", "losetup", "dd")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { ddDirty(s, 4, "bs=1M count=40") },
		Miss:      func(s *lab.Scene) { ddDirty(s, 1, "bs=64k count=4") },
	},
}

func number(s *lab.Scene, path string) int64 {
	text, err := os.ReadFile(path)
	s.Check(err)
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	s.Check(err)
	return n
}

// limitDirty allows a disk some 8 MiB of dirty pages.
func limitDirty(s *lab.Scene, fs *lab.LoopFS) {
	bdi := "/sys/class/bdi/" + fs.Number + "/"
	s.Sysctl(bdi+"strict_limit", "1")
	// As a ratio, which can be put back as it was: max_bytes is rounded up to
	// what the kernel may not take back.
	ratio, bytes := number(s, bdi+"max_ratio_fine"), number(s, bdi+"max_bytes")
	s.Sysctl(bdi+"max_ratio_fine", strconv.FormatInt(max(1, ratio*(8<<20)/max(1, bytes)), 10))
}

func dirty(s *lab.Scene, how string) {
	fs := s.LoopFS(256, "-O", "^has_journal")
	limitDirty(s, fs)
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"append:" + fs.Path("log")}}, lab.Place{})
	job := s.Start(lab.Cmd{Name: "export", Role: "exporter", Args: []string{fs.Path("export.tmp"), how}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Devices: []string{fs.Name}, Mounts: []string{fs.Mount}})
	s.Throttle(fs, "blkio.throttle.write_bps_device", 4<<20)
	s.Watch(svc)
	s.Break(saying(s, "go", job), speeding(s, fs, job))
}

func ddDirty(s *lab.Scene, n int, much string) {
	fs := s.LoopFS(256, "-O", "^has_journal")
	limitDirty(s, fs)
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"append:" + fs.Path("log")}}, lab.Place{})
	jobs := shells(s, n, func(i int) string {
		return fmt.Sprintf("dd if=/dev/zero of=%s.%d %s; sleep 60", fs.Path("dump"), i, much)
	})
	s.BlameGroup(jobs...)
	s.Blame(lab.Guilty{Devices: []string{fs.Name}, Mounts: []string{fs.Mount}})
	s.Throttle(fs, "blkio.throttle.write_bps_device", 6<<20)
	s.Watch(svc)
	s.Break(saying(s, "go", jobs...), speeding(s, fs, jobs...))
}

// speeding lifts a disk's limit and ends who wrote there.
func speeding(s *lab.Scene, fs *lab.LoopFS, ps ...*lab.Proc) func() {
	return func() {
		s.Throttle(fs, "blkio.throttle.write_bps_device", 0)
		killing(s, ps...)()
	}
}
