// Package stranger lets a test run its own binary as another user: for tests
// alone.
package stranger

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Nobody is a user who has no rights and is in no group of the system's.
const Nobody = 65534

// Copied is the test's binary where every user gets to it, under a name that
// makes it what the test wants. Dir is gone when the test is over.
type Copied struct{ Dir, Path string }

// Copy copies the binary into a directory of this mode. Without root, who alone
// can become another user, the test is skipped.
func Copy(t testing.TB, name string, mode os.FileMode) Copied {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir, err := os.MkdirTemp("", "freezeframe-stranger") // what t.TempDir makes is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	c := Copied{dir, filepath.Join(dir, name)}
	for _, err := range []error{os.Chmod(dir, mode), os.WriteFile(c.Path, b, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// Command is the binary as it runs for Nobody, with further groups.
func (c Copied) Command(groups []uint32, args ...string) *exec.Cmd {
	cmd := exec.Command(c.Path, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody, Groups: groups}}
	return cmd
}
