package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// packages is what the machine has, beside what is essential to Debian.
var packages = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "kmod", // it boots
	"python3", "iproute2", "nftables", "e2fsprogs", "dmsetup", "fuse3", "nfs-kernel-server", "util-linux", "mount", "procps", // what faults are made with
}

// excluded is left out of the packages.
var excluded = []string{"/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"}

// rootSize is what the filesystem holds; its file is sparse.
const rootSize = "3G"

// recipe is the version of how images are made: raise it with every change
// here that the package list does not show.
const recipe = "1"

// RootKey names the root image.
func RootKey() string {
	return key(append(append([]string{"root", recipe, Suite, rootSize}, packages...), excluded...)...)
}

// root returns the root filesystem's image, an ext4.
func (m *Machine) root(ctx context.Context) (string, error) {
	dir, err := m.image("root", RootKey(), func(dir string) error {
		from, err := sources(ctx, Suite)
		if err != nil {
			return err
		}
		m.logf("making the root filesystem from %d packages of %s and what they need ...", len(packages), Suite)
		tree := filepath.Join(dir, "tree")
		if _, err := command(ctx, "mmdebstrap", rootArgs(tree, from)...); err != nil {
			return err
		}
		if err := makeFilesystem(ctx, tree, filepath.Join(dir, "root.img"), rootSize); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
	return filepath.Join(dir, "root.img"), err
}

func rootArgs(tree string, from []source) []string {
	args := []string{"--variant=minbase", "--format=directory", "--include=" + strings.Join(packages, ",")}
	for _, path := range excluded {
		args = append(args, "--dpkgopt=path-exclude="+path)
	}
	return append(append(args, Suite, tree), oneLine(from)...)
}

// makeFilesystem makes an ext4 of a directory, in a sparse file. Its inode
// tables and journal are complete: the guest's kernel has none to write.
func makeFilesystem(ctx context.Context, tree, image, size string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = command(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", tree, image, size)
	return err
}

// source is one of apt's: an archive and a suite; of the components main.
type source struct{ uri, suite string }

// sources returns where a suite comes from, by the apt sources of this
// machine: none means mmdebstrap's own, which knows Debian's releases.
func sources(ctx context.Context, suite string) ([]source, error) {
	out, err := command(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Created-By: Packages", "Architecture: amd64")
	if err != nil {
		return nil, fmt.Errorf("list apt's sources: %w", err)
	}
	return pickSources(out, suite), nil
}

// pickSources takes Debian's own archives out of apt's list and returns the
// sources of a suite. Another suite than those that are listed is taken to be
// in the same archive as they are. Where apt does not know the origin, because
// it was never updated, the release's name has to do.
func pickSources(list, suite string) []source {
	release, _, _ := strings.Cut(suite, "-")
	var archive, security string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "main" {
			continue
		}
		name, part, _ := strings.Cut(f[1], "-")
		known := len(f) > 3 && !strings.HasPrefix(f[3], "$(")
		if known && f[3] != "Debian" || !known && name != release {
			continue
		}
		switch {
		case part == "security" && security == "":
			security = f[0]
		case part == "" && archive == "":
			archive = f[0]
		}
	}
	if archive == "" {
		return nil
	}
	all := []source{{uri: archive, suite: release}}
	if security != "" && release != "sid" {
		all = append(all, source{uri: security, suite: release + "-security"})
	}
	if suite != release && suite != release+"-security" {
		all = append(all, source{uri: archive, suite: suite})
	}
	return all
}

// oneLine is how mmdebstrap takes sources (sources.list(5)).
func oneLine(from []source) []string {
	var lines []string
	for _, s := range from {
		lines = append(lines, fmt.Sprintf("deb %s %s main", s.uri, s.suite))
	}
	return lines
}
