package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var fsFrozen = []lab.Fault{
	{
		Name:      "fs.frozen/snapshot",
		Cause:     "fs.frozen",
		About:     "a filesystem is frozen, as for a snapshot, under a Go service that syncs a record per request",
		MissAbout: "frozen for 20 ms",
		Needs:     needs(root, program("mkfs.ext4", "losetup")),
		Run:       func(s *lab.Scene) { frozen(s, victim.Go, "fsync", s.Length) },
		Miss:      func(s *lab.Scene) { frozen(s, victim.Go, "fsync", 20*time.Millisecond) },
	},
	{
		Name:      "fs.frozen/log",
		Cause:     "fs.frozen",
		About:     "the filesystem of the log of a threaded Python service is frozen; it only appends",
		MissAbout: "a filesystem that nobody uses is frozen",
		Needs:     needs(root, program("mkfs.ext4", "losetup", "python3")),
		Run:       func(s *lab.Scene) { frozen(s, victim.Threads, "append", s.Length) },
		Miss: func(s *lab.Scene) {
			fs := s.LoopFS(32)
			s.Watch(s.Serve(victim.Spec{Name: "orders", Kind: victim.Threads, Work: []string{"append:" + s.Dir + "/log"}}, lab.Place{}))
			var thaw func()
			s.Break(func() { thaw = s.Freeze(fs.Mount) }, func() { thaw() })
		},
	},
	{
		Name:      "fs.frozen/behind-a-pipe",
		Cause:     "fs.frozen",
		About:     "the filesystem is frozen to which cat writes the log that a threaded Python service puts into a pipe",
		MissAbout: "frozen for 20 ms",
		Needs:     needs(root, program("mkfs.ext4", "losetup", "python3", "cat")),
		Shortest:  900 * time.Millisecond, // the pipe takes 64 KiB first
		Run:       func(s *lab.Scene) { frozenLogger(s, s.Length) },
		Miss:      func(s *lab.Scene) { frozenLogger(s, 20*time.Millisecond) },
	},
}

func frozenLogger(s *lab.Scene, length time.Duration) {
	fs := s.LoopFS(32)
	fifo := s.Fifo("log.fifo")
	logger := s.Start(shell("exec cat <> " + fifo + " >> " + fs.Path("log")))
	s.Check(logger.Say("go"))
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"pipe:" + fifo}}, lab.Place{})
	s.Blame(lab.Guilty{Mounts: []string{fs.Mount}, Devices: []string{fs.Name}})
	s.Watch(svc)
	s.Length = length
	var thaw func()
	s.Break(func() { thaw = s.Freeze(fs.Mount) }, func() { thaw() })
}

func frozen(s *lab.Scene, kind, work string, length time.Duration) {
	fs := s.LoopFS(32)
	svc := s.Serve(victim.Spec{Name: "orders", Kind: kind, Work: []string{work + ":" + fs.Path("records")}}, lab.Place{})
	s.Blame(lab.Guilty{Mounts: []string{fs.Mount}, Devices: []string{fs.Name}})
	s.Watch(svc)
	s.Length = length
	var thaw func()
	s.Break(func() { thaw = s.Freeze(fs.Mount) }, func() { thaw() })
}
