package main

import (
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/internal/stacks"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// saveAll writes the JSON, the HTML and the recording of one stall, and tries
// each whatever became of the others.
func saveAll(dir string, r freezeframe.Report, i detectors.Incident) (saved []string, err error) {
	base := filepath.Join(dir, r.ID)
	var errs []error
	keep := func(path string, err error) {
		switch {
		case err == nil:
			saved = append(saved, path)
		case errors.Is(err, reports.ErrNoPage):
			saved = append(saved, "no "+path+": "+reports.ErrNoPage.Error())
		default:
			errs = append(errs, err)
		}
	}
	sampled := reports.Stacks(i.Window)
	keep(base+".json", recorder.SaveFile(base+".json", func(w io.Writer) error { return reports.JSON(w, r) }))
	keep(base+".html", recorder.SaveFile(base+".html", func(w io.Writer) error { return reports.HTML(w, r, i.Window, sampled) }))
	keep(base+".frz", recorder.WriteFile(base+".frz", i.Recording))
	if len(sampled) > 0 {
		keep(base+".folded", writeStacks(base+".folded", i.Window, sampled))
		keep(base+".pprof", writeStacks(base+".pprof", i.Window, sampled))
	}
	return saved, errors.Join(errs...)
}

// writeStacks writes call stacks as a pprof profile or, unless the file's name
// says so (.pprof, .pb.gz), as folded lines: of what ran, and of what waited
// below "[off_cpu]".
func writeStacks(path string, w freezeframe.Window, sampled []stacks.Stack) error {
	stall := w.Stall()
	return recorder.SaveFile(path, func(out io.Writer) error {
		if strings.HasSuffix(path, ".pprof") || strings.HasSuffix(path, ".pb.gz") {
			return stacks.Pprof(out, sampled, w.Clock().Wall(stall.Start), stall.Length())
		}
		waited := stacks.Of(sampled, stacks.OffCPU)
		for i := range waited {
			waited[i].Frames = append(slices.Clone(waited[i].Frames), "[off_cpu]")
		}
		if err := stacks.Folded(out, stacks.Of(sampled, stacks.OnCPU), stacks.Nanoseconds); err != nil {
			return err
		}
		return stacks.Folded(out, waited, stacks.Nanoseconds)
	})
}
