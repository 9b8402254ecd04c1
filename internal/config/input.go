package config

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// OpenInput opens a file that someone named, to read it. It never waits for
// the other end of a pipe: one that nobody writes to reads as empty. A
// directory or a device is an error.
func OpenInput(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = errors.New("it is a directory: name a file in it")
	case info.Mode()&fs.ModeDevice != 0:
		err = errors.New("it is a device: name a file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
