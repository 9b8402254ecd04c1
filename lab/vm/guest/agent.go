package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"freezeframe/lab/vm/wire"

	"golang.org/x/sys/unix"
)

// agent runs the job, tells the host and switches the machine off. It returns
// only when it could not tell the host anything.
func agent() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	out := wire.NewEncoder(port)
	stop, done := make(chan struct{}), make(chan struct{})
	go hear(port, stop, done)
	exit := run(out, stop)
	if err := out.SendJSON(wire.KindExit, exit); err != nil {
		return fmt.Errorf("tell the host the result: %w", err)
	}
	select {
	case <-done:
	case <-time.After(30 * time.Second):
	}
	powerOff()
	return errors.New("the machine did not switch itself off")
}

// hear takes what the host says.
func hear(port io.Reader, stop, done chan struct{}) {
	var said [1]byte
	stopped := false
	for {
		if _, err := port.Read(said[:]); err != nil {
			return
		}
		switch {
		case said[0] == wire.Done:
			close(done)
			return
		case said[0] == wire.Stop && !stopped:
			stopped = true
			close(stop)
		}
	}
}

func run(out *wire.Encoder, stop <-chan struct{}) wire.Exit {
	fail := func(err error) wire.Exit { return wire.Exit{Code: 255, Err: err.Error()} }
	job, err := unpack()
	if err != nil {
		return fail(err)
	}
	hello, err := settled()
	if err != nil {
		return fail(err)
	}
	if err := out.SendJSON(wire.KindHello, hello); err != nil {
		return fail(err)
	}
	exit, err := execute(job, out, stop)
	if err != nil {
		return fail(err)
	}
	if err := sendResults(out); err != nil {
		exit.Err = err.Error()
		exit.Code = max(exit.Code, 1)
	}
	return exit
}

// openPort finds the virtio serial port by its name (the kernel's
// Documentation/ABI/testing/sysfs-class-virtio-ports… gives it there).
func openPort() (*os.File, error) {
	for range 1000 {
		found, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, f := range found {
			if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == wire.Port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio serial port %q within 10 s", wire.Port)
}

// unpack reads the input archive from its disk into wire.Dir.
func unpack() (job wire.Job, err error) {
	dev, err := disk(wire.InputDisk)
	if err != nil {
		return job, err
	}
	f, err := os.Open(dev)
	if err != nil {
		return job, err
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Join(wire.Dir, wire.OutDir), 0o755); err != nil {
		return job, err
	}
	in := tar.NewReader(f)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return job, fmt.Errorf("read the input disk: %w", err)
		}
		if h.Name == wire.JobName {
			if err := json.NewDecoder(in).Decode(&job); err != nil {
				return job, fmt.Errorf("read the job: %w", err)
			}
			continue
		}
		path := filepath.Join(wire.Dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return job, err
		}
		to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(h.Mode)&0o777)
		if err != nil {
			return job, err
		}
		_, err = io.Copy(to, in)
		if err := errors.Join(err, to.Close()); err != nil {
			return job, fmt.Errorf("unpack %s: %w", h.Name, err)
		}
	}
	if job.Command == "" {
		return job, errors.New("the input disk has no job")
	}
	unix.Sync() // writing it back is not to happen beside the command
	return job, nil
}

// settled waits until systemd has started everything.
func settled() (h wire.Hello, err error) {
	// It ends with 1 when a unit failed, and says "degraded".
	state, _ := exec.Command("systemctl", "is-system-running", "--wait").CombinedOutput()
	h.State = strings.TrimSpace(string(state))
	switch h.State {
	case "running":
	case "degraded":
		failed, err := exec.Command("systemctl", "--failed", "--plain", "--no-legend").Output()
		if err != nil {
			return h, fmt.Errorf("ask systemd what failed: %w", err)
		}
		h.Failed = strings.TrimSpace(string(failed))
	default:
		return h, fmt.Errorf("systemd is %q, not running", h.State)
	}
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return h, err
	}
	h.Kernel = unix.ByteSliceToString(uname.Release[:])
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return h, err
	}
	h.Uptime = time.Duration(now.Nano())
	return h, nil
}

// jobUnit is the service that the command runs as. It may make control groups
// below its own.
const jobUnit = "lab.service"

func execute(job wire.Job, out *wire.Encoder, stop <-chan struct{}) (wire.Exit, error) {
	cmd := exec.Command("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--unit="+jobUnit,
		"--property=Delegate=yes", "--property=LimitNOFILE=65536", "--working-directory="+wire.Dir,
		"--setenv=HOME=/root", "--setenv=PATH="+wire.Dir+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"/bin/sh", "-c", job.Command)
	cmd.Stdout, cmd.Stderr = out.Writer(wire.KindStdout), out.Writer(wire.KindStderr)
	// What the command started and left may hold its output open for ever.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return wire.Exit{}, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var exit wire.Exit
	select {
	case <-done:
	case <-stop:
		exit.TimedOut = true
		if text, err := exec.Command("systemctl", "kill", "--signal=KILL", jobUnit).CombinedOutput(); err != nil {
			return exit, fmt.Errorf("end the command: %w: %s", err, bytes.TrimSpace(text))
		}
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			return exit, errors.New("the command does not die within 20 s")
		}
	}
	exit.Code = cmd.ProcessState.ExitCode()
	return exit, nil
}

// sendResults sends the regular files of the results directory.
func sendResults(out *wire.Encoder) error {
	buffered := bufio.NewWriterSize(out.Writer(wire.KindResults), wire.MaxFrame)
	w := tar.NewWriter(buffered)
	root := filepath.Join(wire.Dir, wire.OutDir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyN(w, f, info.Size())
		return err
	})
	if err != nil {
		return fmt.Errorf("send the results: %w", err)
	}
	return errors.Join(w.Close(), buffered.Flush())
}
