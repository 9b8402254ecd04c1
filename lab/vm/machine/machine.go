// Package machine builds and boots a Debian virtual machine by emulation
// (QEMU without KVM), and runs one command in it.
//
// Everything in its images comes from Debian packages, by the apt sources of
// the machine it is built on. What is ours arrives with each boot: the guest
// program in the initial RAM disk, the files to test on a disk that holds a
// tar archive. Output, results and exit code come back by a virtio serial
// port; there is no network and no login.
package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab/vm/wire"
)

// Suite is the Debian release of the machine; its kernel may be another's.
const Suite = "bookworm"

// DefaultKernel is the kernel package of the release.
const DefaultKernel = "linux-image-amd64"

// Machine says which machine to boot. Images are made when they are missing.
type Machine struct {
	Kernel  string // a Debian package, "linux-image-amd64/bookworm-backports" for another suite's
	CPUs    int
	Memory  int           // MiB
	Steady  bool          // its clock counts its instructions, see Check
	Shift   int           // of a steady clock: 2^Shift ns an instruction
	Boot    time.Duration // how long it may take from the start of QEMU to the command
	Append  string        // more of the kernel's command line
	Disk    string        // root disk that stays, see CopyRoot; empty: what happens in the machine is gone with it
	Cache   string        // directory of the images, see CacheDir
	Rebuild bool          // make the images again, for newer packages
	Log     io.Writer     // what is being done, a line each
}

// Input is a file for the machine.
type Input struct {
	Path string // here
	Name string // there, below wire.Dir
}

// Job is what to do in the machine.
type Job struct {
	wire.Job
	Limit          time.Duration // how long the command may run, by this machine's clock
	Inputs         []Input
	Stdout, Stderr io.Writer
	Results        string // directory for what the command leaves in wire.OutDir; empty: nowhere
	Console        string // file for the console's log
	// Ask is called with what the command asks of the host, in words: see
	// wire.Ask. nil: it can ask for nothing.
	Ask func(h *Host, words []string) error
}

// Result is what came back.
type Result struct {
	wire.Exit
	Hello wire.Hello
	Boot  time.Duration // from the start of QEMU until the command started
	Ran   time.Duration // the command, as this machine's clock saw it
	Cut   time.Time     // when the power went, by this machine's wall clock; zero: it did not
}

// Check says what is wrong with the machine's description.
//
// A steady clock hides from the guest how slow emulation is, and who else uses
// the host: what measures time there measures as on a real, slow computer. QEMU
// counts the instructions of one CPU; with more they wait for each other's
// turns, and the machine does not even start in minutes.
func (m *Machine) Check() error {
	if m.Steady && m.CPUs != 1 {
		return fmt.Errorf("a steady clock needs a machine of 1 CPU, not %d", m.CPUs)
	}
	if m.CPUs < 1 || m.Memory < 256 {
		return fmt.Errorf("a machine of %d CPUs and %d MiB is too small (1 and 256 MiB at least)", m.CPUs, m.Memory)
	}
	_, _, err := splitKernel(m.Kernel)
	return err
}

// tools are what building and booting needs, with the package each is in.
var tools = []struct{ name, pkg string }{
	{"qemu-system-x86_64", "qemu-system-x86"},
	{"mmdebstrap", "mmdebstrap"},
	{"apt-get", "apt"},
	{"mke2fs", "e2fsprogs"},
	{"depmod", "kmod"},
	{"xz", "xz-utils"},
	{"zstd", "zstd"},
}

// CheckTools says what is missing and how to install it.
func CheckTools() error {
	var missing, pkgs []string
	for _, t := range tools {
		if _, err := lookPath(t.name); err != nil {
			missing, pkgs = append(missing, t.name), append(pkgs, t.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing here: %s (apt-get install %s)", strings.Join(missing, ", "), strings.Join(pkgs, " "))
}

// lookPath also looks where an ordinary user's PATH often does not.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(dir + name)
	}
	return path, err
}

// CacheDir is where the images are.
func CacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	return filepath.Join(cache, "freezeframe-lab", "vm"), nil
}

func (m *Machine) logf(format string, args ...any) { fmt.Fprintf(m.Log, format+"\n", args...) }

// key names an image by everything that it is made of.
func key(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// keepImages bounds the disk: this many of the latest used kernels stay.
const keepImages = 4

// image returns the directory of an image, made by build when it is not there.
// build gets an empty directory; it becomes the image when build succeeded.
func (m *Machine) image(kind, key string, build func(dir string) error) (string, error) {
	dir := filepath.Join(m.Cache, kind+"-"+key)
	if _, err := os.Stat(dir); err == nil && !m.Rebuild {
		now := time.Now()
		return dir, os.Chtimes(dir, now, now)
	}
	if os.Geteuid() != 0 {
		return "", errors.New("making the image needs root: its files belong to root (run this once as root; booting does not need it)")
	}
	if err := os.MkdirAll(m.Cache, 0o755); err != nil {
		return "", err
	}
	if err := removeStale(m.Cache, making); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(m.Cache, making+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	began := time.Now()
	if err := build(tmp); err != nil {
		return "", fmt.Errorf("make the %s image: %w", kind, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", err
	}
	m.logf("made the %s image in %.0f s: %s", kind, time.Since(began).Seconds(), dir)
	return dir, m.prune(kind)
}

// prune removes the images that were not used for longest.
func (m *Machine) prune(kind string) error {
	dirs, err := filepath.Glob(filepath.Join(m.Cache, kind+"-*"))
	if err != nil {
		return err
	}
	used := make(map[string]time.Time)
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		used[dir] = info.ModTime()
	}
	slices.SortFunc(dirs, func(a, b string) int { return used[b].Compare(used[a]) })
	keep := keepImages
	if kind == "root" {
		keep = 1
	}
	for _, dir := range dirs[min(keep, len(dirs)):] {
		m.logf("removing %s, which was last used %s", dir, used[dir].Format(time.DateTime))
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// removeStale removes the directories whose names begin with prefix and the id
// of a process that is not there any more.
func removeStale(in, prefix string) error {
	dirs, err := filepath.Glob(filepath.Join(in, prefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if n, err := strconv.Atoi(pid); err != nil || n <= 0 {
			continue // not ours
		}
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrPermission) { // another user's
				return err
			}
		}
	}
	return nil
}

// command runs a program; its output is in the error.
func command(ctx context.Context, name string, args ...string) (string, error) {
	path, err := lookPath(name)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, lastLines(string(out), 12))
	}
	return string(out), nil
}

// lastLines returns the end of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
