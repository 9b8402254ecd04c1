package faults

import (
	"os"
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
		Needs:     needs(root, controller("blkio"), program("mkfs.ext4", "losetup")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { journal(s, "all") },
		Miss:      func(s *lab.Scene) { journal(s, "little") },
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
	s.Break(saying(s, "go", job), func() {
		s.Throttle(fs, "blkio.throttle.write_bps_device", 0)
		killing(s, job)()
	})
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
