package rules

import (
	"fmt"

	"freezeframe"
)

func fsInodesFull() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.inodes_full",
		Title: "a filesystem without free inodes",
		Means: "The filesystem had room for data but for no more files: every new file was refused.",
		Proof: "Creating a file was refused with ENOSPC while statfs shows no free inode.",
		Remedy: []string{
			"Now: `df -i MOUNTPOINT`; find the directory with the many files: `du --inodes -x MOUNTPOINT | sort -n | tail`.",
			"So that it does not come back: clean up session, cache and mail queue files by age; make the filesystem anew with more inodes (`mkfs.ext4 -i 8192`), or use XFS.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "tasks.file", "mounts.mountpoint", "mounts.files", "mounts.files_free", "procs.write_bytes"},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			return judgeRefused(w, []string{"ENOSPC"}, func(mt *mount) (string, bool) {
				return fmt.Sprintf("0 of %d inodes free, %s available", mt.files, size(mt.avail)), mt.files > 0 && mt.filesFree == 0
			}, "had no free inodes")
		},
	}
}
