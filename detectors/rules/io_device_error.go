package rules

import (
	"cmp"
	"fmt"
	"regexp"
	"time"

	"freezeframe"
)

// deviceTrouble are the lines with which the kernel's block drivers give up on
// a request or reset a device; the first group is the device.
var deviceTrouble = regexp.MustCompile(`I/O error, dev ([a-zA-Z0-9_-]+)` +
	`|(?:critical )?(?:medium|target|nexus|space allocation|timeout) error, dev ([a-zA-Z0-9_-]+)` +
	`|nvme ([a-z0-9]+): (?:I/O .*timeout|controller is down)` +
	`|(ata[0-9.]+): (?:hard resetting link|exception Emask|failed command|SError)` +
	`|sd [0-9:]+: \[([a-z]+)\].*(?:FAILED Result|Sense Key)` +
	`|Buffer I/O error on (?:dev|device) ([a-zA-Z0-9_-]+)`)

func ioDeviceError() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "io.device_error",
		Title: "a disk with errors",
		Means: "A block device failed requests, or did not answer and was reset; until it answers again, everything on it waits.",
		Proof: "The kernel's own lines about errors, timeouts or resets of the device just before or in the stall, and victims that waited for a device or were refused with EIO.",
		Remedy: []string{
			"Now: `smartctl -a /dev/DEVICE` (or `nvme smart-log`), check the RAID (`cat /proc/mdstat`), make sure of the backup.",
			"So that it does not come back: replace the device, its cable or its slot; on cloud volumes tell the provider.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, freezeframe.EventKernelLog},
		Subsumes: bringsAbout("io.device_saturated", "io.flush_storm", "fs.journal_commit", "fs.readonly", "fs.dirty_throttled", "mem.file_thrash"),
		Judge:    judgeDeviceError,
	}
}

func judgeDeviceError(w freezeframe.Window) []freezeframe.Finding {
	var first *logLine
	device, lines := "", 0
	for _, l := range kernelLog(w, 35*time.Second) {
		m := deviceTrouble.FindStringSubmatch(l.Text)
		if m == nil {
			continue
		}
		if lines++; first == nil {
			first, device = &l, cmp.Or(m[1:]...)
		}
	}
	if first == nil {
		return nil
	}
	ms := roots(w, func(m *moment) bool {
		return m.wait.Class == freezeframe.DeviceWait || m.wait.Class == freezeframe.FilesystemWait && in(m.wait, append([]string{"folio_wait*", "wait_on_page*", "wait_on_buffer", "bit_wait_io"}, inJournal...)...)
	})
	refused := symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "EIO", "I/O error") })
	claim := worth(w, freezeframe.Union(append(ms.spans(), refused...)...))
	if claim == nil {
		return nil
	}
	return []freezeframe.Finding{{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: device}, Explains: claim, Confidence: seen, Chain: story(ms),
		Summary:  fmt.Sprintf("%s reported errors; the work waited for it for %s.", device, length(claim.Length())),
		Evidence: []freezeframe.Evidence{evidence(freezeframe.EventKernelLog, "", "the kernel, %d times: %s", lines, quote(first.Text))},
	}}
}
