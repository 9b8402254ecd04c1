package faults

import (
	"os"
	"path/filepath"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var fsFull = []lab.Fault{
	{
		Name:      "fs.full/log",
		Cause:     "fs.full",
		About:     "a process fills a filesystem; a Go service that stores a record per request tries again until there is room",
		MissAbout: "it fills it to 80 %",
		Needs:     needs(root, program("mkfs.ext4", "losetup")),
		Run:       func(s *lab.Scene) { fill(s, 100) },
		Miss:      func(s *lab.Scene) { fill(s, 80) },
		Roles:     map[string]func([]string){"filler": filler},
	},
	{
		Name:      "fs.full/tmpfs",
		Cause:     "fs.full",
		About:     "dd fills a tmpfs of 16 MiB; a threaded Python service that stores a record per request tries again until there is room",
		MissAbout: "it leaves 4 MiB",
		Needs:     needs(root, program("dd", "python3")),
		Run:       func(s *lab.Scene) { fillTmpfs(s, "32") },
		Miss:      func(s *lab.Scene) { fillTmpfs(s, "12") },
	},
}

func fill(s *lab.Scene, percent uint64) {
	fs := s.LoopFS(32, "-m", "0")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"append:" + fs.Path("records")}}, lab.Place{})
	how := "all"
	if percent < 100 {
		how = "most"
	}
	job := s.Start(lab.Cmd{Name: "export", Role: "filler", Args: []string{fs.Path("export.tmp"), how}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Mounts: []string{fs.Mount}, Devices: []string{fs.Name}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), saying(s, "stop", job))
}

func fillTmpfs(s *lab.Scene, mib string) {
	mount := filepath.Join(s.Dir, "spool")
	s.Check(os.Mkdir(mount, 0o755))
	s.Later("umount", mount)
	s.Check(unix.Mount("tmpfs", mount, "tmpfs", 0, "size=16m"))
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"record:" + filepath.Join(mount, "records")}}, lab.Place{})
	dump := filepath.Join(mount, "dump")
	job := s.Start(shell("exec dd if=/dev/zero of=" + dump + " bs=1M count=" + mib))
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Mounts: []string{mount}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), func() { s.Check(os.Remove(dump)) })
}

// filler fills a filesystem between "go" and "stop".
func filler(args []string) {
	lab.Listen("", func(line string) {
		if line == "stop" {
			_ = os.Remove(args[0])
			return
		}
		f, err := os.Create(args[0])
		if err != nil {
			return
		}
		defer f.Close()
		var st unix.Statfs_t
		_ = unix.Fstatfs(int(f.Fd()), &st)
		free := int64(st.Bavail) * st.Bsize
		if args[1] != "all" {
			_, _ = f.Write(make([]byte, free*8/10))
			return
		}
		for size := 1 << 20; size >= 512; {
			if _, err := f.Write(make([]byte, size)); err != nil {
				size /= 2
			}
		}
	})
}
