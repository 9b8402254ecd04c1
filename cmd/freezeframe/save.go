package main

import (
	"errors"
	"io"
	"path/filepath"

	"freezeframe"
	"freezeframe/detectors"
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
	keep(base+".json", recorder.SaveFile(base+".json", func(w io.Writer) error { return reports.JSON(w, r) }))
	keep(base+".html", recorder.SaveFile(base+".html", func(w io.Writer) error { return reports.HTML(w, r, i.Window, nil) }))
	keep(base+".frz", recorder.WriteFile(base+".frz", i.Recording))
	return saved, errors.Join(errs...)
}
