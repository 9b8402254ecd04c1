package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var fsJournalCommit = []lab.Fault{
	{
		Name:      "fs.journal_commit/ordered-data",
		Cause:     "fs.journal_commit",
		About:     "an export writes much to an ext4 on a disk of 16 MB/s; each commit of the journal first writes its data, and a Go service that syncs a record per request waits for the commit",
		MissAbout: "an export of 256 KiB",
		Needs:     needs(root, controllerV1("blkio"), program("mkfs.ext4", "losetup")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { journal(s, "all") },
		Miss:      func(s *lab.Scene) { journal(s, "little") },
	},
	{
		Name:      "fs.journal_commit/many-files",
		Cause:     "fs.journal_commit",
		AlsoOK:    []string{"io.device_saturated"}, // its own data, too, has to get past the journal's on that disk
		About:     "a script makes and removes thousands of files on an ext4 with a journal of 4 MiB on a disk of 3 MB/s; a threaded Python service that syncs a record per request waits for its commits",
		MissAbout: "it makes 20 files",
		Needs:     needs(root, controllerV1("blkio"), program("mkfs.ext4", "losetup", "python3")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { manyFiles(s, 100000) },
		Miss:      func(s *lab.Scene) { manyFiles(s, 20) },
		Roles:     map[string]func([]string){"unpacker": unpacker},
	},
}

func journal(s *lab.Scene, how string) {
	fs := s.LoopFS(512)
	s.Remount(fs, "nodelalloc") // so that what is written belongs to the running transaction
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"fsync:" + fs.Path("records")}}, lab.Place{})
	job := s.Start(lab.Cmd{Name: "export", Role: "exporter", Args: []string{fs.Path("export.tmp"), how}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Devices: []string{fs.Name}, Mounts: []string{fs.Mount}})
	s.Throttle(fs, "blkio.throttle.write_bps_device", 16<<20)
	s.Watch(svc)
	s.Break(saying(s, "go", job), speeding(s, fs, job))
}

// exporter appends to a file, in blocks of 64 KiB, when told to go.
func exporter(args []string) {
	lab.Listen("", func(string) {
		go func() {
			f, err := os.Create(args[0])
			if err != nil {
				return
			}
			block := make([]byte, 64<<10)
			for i := 0; args[1] == "all" && i < 3200 || i < 4; i++ { // 200 MiB at most
				if _, err := f.Write(block); err != nil {
					return
				}
			}
		}()
	})
}

func manyFiles(s *lab.Scene, n int) {
	fs := s.LoopFS(256, "-J", "size=4", "-N", "60000")
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"fsync:" + fs.Path("records")}}, lab.Place{})
	job := s.Start(lab.Cmd{Name: "unpack", Role: "unpacker", Args: []string{fs.Mount, strconv.Itoa(n)}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Devices: []string{fs.Name}, Mounts: []string{fs.Mount}})
	s.Throttle(fs, "blkio.throttle.write_bps_device", 3<<20)
	s.Watch(svc)
	s.Break(saying(s, "go", job), speeding(s, fs, job))
}

// unpacker makes so many small files, 500 in a directory, when told to go.
func unpacker(args []string) {
	n, _ := strconv.Atoi(args[1])
	lab.Listen("", func(string) {
		go func() {
			for i := range n {
				dir := filepath.Join(args[0], fmt.Sprintf("d%d", i/500%60))
				if i%500 == 0 {
					_ = os.RemoveAll(dir)
					_ = os.Mkdir(dir, 0o755)
				}
				if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), []byte("x"), 0o644); err != nil {
					return
				}
			}
		}()
	})
}
