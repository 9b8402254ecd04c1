package kernel

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestFileReadsAgainAndGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("one\n"))
	f, err := OpenFile(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, want := range [][]byte{
		[]byte("one\n"),
		bytes.Repeat([]byte("x"), 255), bytes.Repeat([]byte("y"), 256), bytes.Repeat([]byte("z"), 257),
		bytes.Repeat([]byte("long "), 30_000),
		{},
		[]byte("short again\n"),
	} {
		write(want)
		got, err := f.Read()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
		}
	}
	if n := testing.AllocsPerRun(100, func() { f.Read() }); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}

func TestFileOfTheKernelIsFresh(t *testing.T) {
	f, err := OpenFile("/proc/self/stat", 512)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile("/proc/self/stat")
	if err != nil || !bytes.Equal(bytes.Fields(first)[0], bytes.Fields(again)[0]) {
		t.Errorf("%q, then %q, %v", first, again, err)
	}
}

func TestFileThatAppears(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later")
	f, err := NewFile(path, 64)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if !IsGone(f.Open()) {
			t.Error("opened what is not there")
		}
	}); n != 0 {
		t.Errorf("%v allocations a try", n)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Open(); err != nil || !f.IsOpen() {
		t.Fatal(err)
	}
	if b, err := f.Read(); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if _, err := f.Read(); err == nil {
		t.Error("read a closed file")
	}
}

func TestFileErrorsNameThePath(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenFile(dir+"/none", 1)
	if p := new(fs.PathError); !errors.As(err, &p) || p.Path != dir+"/none" || !IsGone(err) {
		t.Errorf("open: %v", err)
	}
	f, err := OpenFile(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.Read()
	if p := new(fs.PathError); !errors.As(err, &p) || p.Path != dir {
		t.Errorf("read: %v", err)
	}
	if _, err := OpenFile("a\x00b", 1); err == nil {
		t.Error("a path with a NUL byte was opened")
	}
}

func TestReadAt(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	buf := make([]byte, 4)
	if n, err := ReadAt(int(d.Fd()), []byte("f\x00"), buf); err != nil || string(buf[:n]) != "cont" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, err := ReadAt(int(d.Fd()), []byte("none\x00"), buf); !IsGone(err) {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"", "f"} {
		if _, err := ReadAt(int(d.Fd()), []byte(name), buf); err == nil {
			t.Errorf("%q has no NUL byte", name)
		}
	}
}
