package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

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
	keep(base+".json", save(base+".json", func(w io.Writer) error { return reports.JSON(w, r) }))
	keep(base+".html", save(base+".html", func(w io.Writer) error { return reports.HTML(w, r, i.Window) }))
	keep(base+".frz", recorder.WriteFile(base+".frz", i.Recording))
	return saved, errors.Join(errs...)
}

// save writes a file beside its place and renames it there when it is whole
// and on the disk, so that a failure leaves neither a part of the new file nor
// harms an old one.
func save(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return saveError(path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = saveError(path, err)
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	if err = write(w); err != nil {
		return err
	}
	if err = w.Flush(); err != nil {
		return err
	}
	if err = f.Chmod(0o640); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func saveError(path string, err error) error {
	switch {
	case errors.Is(err, reports.ErrNoPage):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("save %s: free some space there or save to another filesystem: %w", path, err)
	}
	return fmt.Errorf("save %s: %w", path, err)
}
