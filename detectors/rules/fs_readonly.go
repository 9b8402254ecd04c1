package rules

import (
	"strings"
	"time"

	"freezeframe"
)

func fsReadonly() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.readonly",
		Title: "a filesystem that became read-only",
		Means: "The filesystem was made read-only, mostly by the kernel itself after an error on the disk, so every write to it failed.",
		Proof: "A write to a mount that had taken writes was refused with EROFS; the kernel's line about it where there is one.",
		Remedy: []string{
			"Now: read `dmesg` for the error behind it; save the data; unmount and `fsck` before `mount -o remount,rw MOUNTPOINT`.",
			"So that it does not come back: check the disk (`smartctl -a`), memory and the storage's log.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "tasks.file", "mounts.mountpoint", "mounts.readonly", "procs.write_bytes", freezeframe.EventKernelLog},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			out := judgeRefused(w, []string{"EROFS"}, func(mt *mount) (string, bool) {
				if mt.readonly {
					return "mounted read-only", true
				}
				// After an error newer kernels take no writes, and leave the mount as it was.
				return "not mounted read-only, and yet it takes no writes", true
			}, "was read-only")
			for i := range out {
				out[i].Culprit.PID, out[i].Culprit.Comm = 0, "" // who wrote most has no part in it
				for _, l := range kernelLog(w, time.Minute) {
					if strings.Contains(l.Text, "emounting filesystem read-only") || strings.Contains(l.Text, "Shutting down filesystem") || strings.Contains(l.Text, "EXT4-fs error") {
						out[i].Evidence = append(out[i].Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(l.Text)))
						break
					}
				}
			}
			if len(out) == 0 {
				out = remounted(w)
			}
			return out
		},
	}
}

// remounted finds the mount that the kernel says it made read-only, before any
// write was refused: "EXT4-fs (sda1): Remounting filesystem read-only".
func remounted(w freezeframe.Window) []freezeframe.Finding {
	line := logged(w, time.Second, "emounting filesystem read-only")
	claim := worth(w, symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "remounted read-only") }))
	if line == nil || claim == nil {
		return nil
	}
	rest, _ := after(line.Text, "(")
	device := word(rest, "):")
	f := freezeframe.Finding{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: device}, Explains: claim, Confidence: seen,
		Summary:  "The kernel made the filesystem on " + device + " read-only.",
		Evidence: []freezeframe.Evidence{evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text))},
	}
	for _, m := range mounts(w, around(w.Stall().Span)) {
		if m.source == "/dev/"+device && device != "" {
			f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: m.point, Device: m.source}
			break
		}
	}
	return []freezeframe.Finding{f}
}
