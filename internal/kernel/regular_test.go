package kernel

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestOpenRegular(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"root/in", "root" + dir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, path string) {
		t.Helper()
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "secret"), "outside")
	write(filepath.Join(root, "in", "file"), "inside")
	link("/in/file", filepath.Join(root, "absolute"))
	link("../../../../secret", filepath.Join(root, "in", "up"))
	link(filepath.Join(dir, "secret"), filepath.Join(root, "out"))
	if err := syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	read := func(f *os.File, err error) string {
		if err != nil {
			return ""
		}
		defer f.Close()
		b, _ := io.ReadAll(f)
		return string(b)
	}
	for path, want := range map[string]string{"/in/file": "inside", "/../in/file": "inside", "/absolute": "inside", "/out": "", "/in/up": "", "/none": ""} {
		if got := read(OpenRegularIn(root, path, true)); got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
	if _, err := OpenRegularIn(root, "/absolute", false); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a link was followed: %v", err)
	}
	// Opening a pipe would wait for ever, opening a device can do anything.
	for _, path := range []string{"/pipe", "/in"} {
		if _, err := OpenRegularIn(root, path, true); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := OpenRegular("/dev/null"); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a device: %v", err)
	}
	if got := read(OpenRegular(filepath.Join(dir, "root", "in", "file"))); got != "inside" {
		t.Errorf("a file of our own: %q", got)
	}
	f, err := OpenRegular(filepath.Join(root, "in", "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, err := IDOf(f)
	if err != nil || before.Size != 6 || before.Ino == 0 || before.UID != uint32(os.Getuid()) {
		t.Errorf("%+v, %v", before, err)
	}
	write(filepath.Join(root, "in", "file"), "changed")
	if after, err := IDOf(f); err != nil || after == before {
		t.Errorf("a file that was changed is still %+v, %v", after, err)
	}
}
