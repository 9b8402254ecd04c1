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

var memFileThrash = []lab.Fault{
	{
		Name:      "mem.file_thrash/neighbour",
		Cause:     "mem.file_thrash",
		About:     "an indexer in a Go service's cgroup walks through a mapped file of 160 MiB; the 44 MiB of a catalog that the service looks things up in are pushed out of the page cache and come back page by page, from a disk that takes 2 ms for each; no swap",
		MissAbout: "it walks through 4 MiB, which fit beside the catalog",
		Needs:     needs(root, fuseDevice, controller("memory"), program("losetup", "mkfs.ext4")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { pushOut(s, 160) },
		Miss:      func(s *lab.Scene) { pushOut(s, 4) },
		Roles:     map[string]func([]string){"filewalker": fileWalker},
	},
}

func pushOut(s *lab.Scene, mib int) {
	mount := filepath.Join(s.Dir, "store")
	s.Check(os.Mkdir(mount, 0o755))
	s.Later("umount", mount)
	store := s.Start(lab.Cmd{Name: "blockstore", Role: "diskstore", Args: []string{mount, "256"}})
	disk := s.LoopOver(filepath.Join(mount, "disk"), "--direct-io=on")
	s.MakeFS(disk, "-O", "^has_journal")
	catalog, archive := disk.Path("catalog"), disk.Path("archive")
	s.Check(writeMiB(catalog, 44))
	s.Check(writeMiB(archive, mib))

	group := s.Cgroup("memory")
	group.MemoryMax(72 << 20)
	if group.V2 {
		group.Set("memory.swap.max", "0")
	} else {
		group.Set("memory.swappiness", "0")
	}
	place := lab.Place{Cgroups: []string{group.Dir}}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"mapped:100:" + catalog}}, place)
	walker := s.Start(lab.Cmd{Name: "indexer", Role: "filewalker", Args: []string{archive}, Place: place})
	s.Check(store.Say("take 2ms"))
	s.BlameGroup(walker)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", walker), func() {
		killing(s, walker)()
		// Read back page by page it would go on for seconds.
		s.Check(store.Say("take 0s"))
		_, err := svc.Ask("warm", 10*time.Second)
		s.Check(err)
	})
}

// writeMiB writes a file to its disk, and leaves none of it in memory: whoever
// reads it first has it in his cgroup.
func writeMiB(name string, mib int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i)
	}
	for range mib {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop the pages of %s: %w", name, err)
	}
	return nil
}

// fileWalker maps a file, and when told to go walks through it over and over
// with four threads, a part each.
func fileWalker(args []string) {
	const threads = 4
	b, err := victim.Mapped(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.Listen("", func(string) {
		part := len(b) / threads
		for i := range threads {
			go func() {
				for own := b[i*part : (i+1)*part]; ; {
					victim.Touch(own)
					// What fits in memory must not take a CPU.
					time.Sleep(10 * time.Millisecond)
				}
			}()
		}
	})
}
