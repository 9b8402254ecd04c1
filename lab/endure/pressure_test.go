package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// compiled is the program of crowds.
func compiled(t *testing.T) string {
	t.Helper()
	if err := canCompile(); err != nil {
		t.Skip(err)
	}
	program, err := compileIn(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// children are the processes whose parent is pid.
func children(t *testing.T, pid int) (n int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(f) > 1 && f[1] == fmt.Sprint(pid) {
			n++
		}
	}
	return n
}

func TestCrowd(t *testing.T) {
	cmd := exec.Command(compiled(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a mistake of its own kills nobody else
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, c := range []struct {
		say, want string
		alive     int
	}{{"", "ready", 0}, {"3", "3", 3}, {"20", "20", 20}, {"5", "5 cannot be had", 20}, {"end", "20", 0}} {
		if c.say != "" {
			fmt.Fprintln(in, c.say)
		}
		if !lines.Scan() || lines.Text() != c.want {
			t.Fatalf("told %q it says %q", c.say, lines.Text())
		}
		if n := children(t, cmd.Process.Pid); n != c.alive {
			t.Errorf("told %q it has %d processes", c.say, n)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestForks(t *testing.T) {
	cmd := exec.Command(compiled(t), "forks", "100")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("it says nothing")
	}
	for end := time.Now().Add(20 * time.Second); children(t, cmd.Process.Pid) == 0; {
		if time.Now().After(end) {
			t.Fatal("it starts nothing")
		}
	}
	in.Close()
	var n int
	if !lines.Scan() {
		t.Fatal("it does not say how many there were")
	}
	if _, err := fmt.Sscan(lines.Text(), &n); err != nil || n < 1 {
		t.Errorf("%q: %v", lines.Text(), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestFilesystemOfErrors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a FUSE filesystem")
	}
	behind, mount := t.TempDir(), t.TempDir()
	var b broken
	server, err := serveErrors(behind, mount, &b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	path := filepath.Join(mount, "dir", "file")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("before"), 0o600)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tries := map[string]func() error{
		"write": func() error { _, err := f.WriteAt([]byte("B"), 0); return err },
		"sync":  f.Sync,
		"create": func() error {
			g, err := os.Create(filepath.Join(mount, "dir", "other"))
			if err == nil {
				g.Close()
			}
			return err
		},
		"rename": func() error { return os.Rename(path, path) },
		"remove": func() error { return os.Remove(filepath.Join(mount, "dir", "other")) },
		"mkdir":  func() error { return os.Mkdir(filepath.Join(mount, "new"), 0o755) },
		"list":   func() error { _, err := os.ReadDir(mount); return err },
		"statfs": func() error { var st syscall.Statfs_t; return syscall.Statfs(mount, &st) },
	}
	b.now.Store(true)
	for name, try := range tries {
		if err := try(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s while it is broken: %v", name, err)
		}
	}
	if n := b.count.Load(); n < uint64(len(tries)) {
		t.Errorf("%d errors were counted", n)
	}
	b.now.Store(false)
	for _, name := range []string{"write", "sync", "create", "remove", "mkdir", "list", "statfs"} {
		if err := tries[name](); err != nil {
			t.Errorf("%s when it is mended: %v", name, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(behind, "dir", "file")); err != nil || string(text) != "Before" {
		t.Errorf("behind it is %q, %v", text, err)
	}
}

// A daemon that refuses everybody, as far as strangers see of it.
func TestHostileClientsSayHello(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := make(chan string, 3)
	go func() {
		for _, answer := range []string{`{"refused":{"code":"refused"}}`, `{}`, `{}`} {
			c, err := l.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 5)
			if _, err := io.ReadFull(c, head); err != nil {
				said <- err.Error()
			}
			size := binary.BigEndian.Uint32(head)
			if size == 1<<30 { // enough is enough
				said <- string(head[4:])
				c.Close()
				continue
			}
			body := make([]byte, size)
			if _, err := io.ReadFull(c, body); err != nil {
				said <- err.Error()
			}
			said <- string(head[4:]) + string(body)
			_, _ = c.Write(append(frame('H', uint32(len(answer))), answer...))
			c.Close()
		}
	}()
	v := &villain{socket: path}
	for range 2 {
		v.once(func(c net.Conn) { v.greeted(c) })
		var h struct {
			Protocol string
			Min, Max int
		}
		text := <-said
		if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "H")), &h); err != nil || h.Protocol != "freezeframe.control" || h.Min != 1 || h.Max != 1 {
			t.Errorf("it says %q: %v", text, err)
		}
	}
	v.once(v.huge)
	if text := <-said; text != "H" {
		t.Errorf("a message of 1 GB is %q", text)
	}
	if v.connected.Load() != 3 || v.refused.Load() != 1 || v.most.Load() != 1 || v.open.Load() != 0 {
		t.Errorf("%d connected, %d refused, %d at once, %d open", v.connected.Load(), v.refused.Load(), v.most.Load(), v.open.Load())
	}
	l.Close()
	v.once(v.huge)
	if v.connected.Load() != 3 {
		t.Error("it counts a connection that was not made")
	}
}
