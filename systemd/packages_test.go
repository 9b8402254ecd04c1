// Package systemd_test holds the packages against what they promise: the same
// bytes wherever they are made, and maintainer scripts that leave a machine as
// they should.
package systemd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The version that the tests stamp, so that they need no git and no clean tree.
var stamp = []string{"SOURCE_DATE_EPOCH=1700000000", "PACKAGE_VERSION=1.0"}

func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// checkout copies what git knows of the repository, and the page if it is built,
// with the licence of what is in it.
func checkout(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "a path of another length")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "..", nil, "sh", "-c", `git -c safe.directory='*' ls-files -z -co --exclude-standard | xargs -0 cp --no-dereference --parents -t "$0" && cp -r reports/page/dist "$0/reports/page" &&
		{ [ ! -e reports/page/node_modules/uplot/LICENSE ] || cp --parents reports/page/node_modules/uplot/LICENSE "$0"; }`, to)
	return to
}

// build makes all packages and returns the directory they are in.
func build(t *testing.T, tree string, umask string, env ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "packages")
	run(t, tree, append(env, stamp...), "sh", "-c", `umask `+umask+` && make -s packages-of-page PACKAGES="$0" VERSION=1.0 COMMIT=0123`, out)
	return out
}

func packages(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, pattern := range []string{"*.deb", "*.rpm"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all[filepath.Base(f)] = text
		}
	}
	return all
}

func TestPackages(t *testing.T) {
	first := build(t, "..", "022", "TZ=UTC")
	t.Run("are the same bytes wherever they are made", func(t *testing.T) {
		want := packages(t, first)
		got := packages(t, build(t, checkout(t), "077", "TZ=Pacific/Auckland", "LANG=C.UTF-8"))
		if len(want) != 4 {
			t.Errorf("%d packages, want a deb and an rpm for each of two machines", len(want))
		}
		for name, text := range want {
			if !bytes.Equal(text, got[name]) {
				t.Errorf("%s: %d bytes here, %d other bytes there", name, len(text), len(got[name]))
			}
		}
	})
	t.Run("hold what belongs in them", func(t *testing.T) { contents(t, first) })
	t.Run("install, upgrade and purge", func(t *testing.T) { lifecycle(t, first) })
}

func contents(t *testing.T, dir string) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is missing: this is no Debian")
	}
	list := run(t, dir, nil, "sh", "-c", "dpkg-deb --contents freezeframe_1.0-1_amd64.deb")
	have := map[string]string{}
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		have[strings.TrimPrefix(f[5], ".")] = f[0] + " " + f[1]
	}
	const file, program = "-rw-r--r-- root/root", "-rwxr-xr-x root/root"
	for name, want := range map[string]string{
		"/usr/bin/freezeframe":                                  program,
		"/etc/freezeframe/config.yaml":                          file,
		"/usr/lib/systemd/system/freezeframe-diagnose@.service": file,
		"/usr/lib/sysusers.d/freezeframe.conf":                  file,
		"/usr/lib/tmpfiles.d/freezeframe.conf":                  file,
		"/usr/share/man/man1/freezeframe.1.gz":                  file,
		"/usr/share/man/man1/freezeframe-diagnose.1.gz":         file,
		"/usr/share/man/man5/freezeframe.yaml.5.gz":             file,
		"/usr/share/bash-completion/completions/freezeframe":    file,
		"/usr/share/zsh/vendor-completions/_freezeframe":        file,
		"/usr/share/fish/vendor_completions.d/freezeframe.fish": file,
		"/usr/share/doc/freezeframe/README.md":                  file,
		"/usr/share/doc/freezeframe/LICENSE":                    file,
		"/usr/share/doc/freezeframe/copyright":                  file,
		"/usr/share/doc/freezeframe/changelog.gz":               file,
		"/usr/share/doc/freezeframe/libraries.gz":               file,
	} {
		if have[name] != want {
			t.Errorf("%s is %q, want %q", name, have[name], want)
		}
	}
	units, err := filepath.Glob("freezeframe*.s*")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units here: %v", err)
	}
	for _, unit := range units {
		if have["/usr/lib/systemd/system/"+unit] != file {
			t.Errorf("%s is not in the package", unit)
		}
	}
	if conf := run(t, dir, nil, "dpkg-deb", "--info", "freezeframe_1.0-1_amd64.deb", "conffiles"); strings.TrimSpace(conf) != "/etc/freezeframe/config.yaml" {
		t.Errorf("the conffiles are %q", conf)
	}
	for _, p := range []struct{ deb, arch, elf string }{{"amd64", "amd64", "x86-64"}, {"arm64", "arm64", "aarch64"}} {
		if got := strings.TrimSpace(run(t, dir, nil, "dpkg-deb", "--field", "freezeframe_1.0-1_"+p.deb+".deb", "Architecture")); got != p.arch {
			t.Errorf("the package for %s says it is for %s", p.arch, got)
		}
		binary := filepath.Join(dir, "stage", p.arch, "freezeframe")
		said := run(t, dir, nil, "go", "version", "-m", binary)
		for _, want := range []string{"GOARCH=" + p.arch, "CGO_ENABLED=0", "-trimpath=true"} {
			if !strings.Contains(said, want) {
				t.Errorf("%s was not built with %s", binary, want)
			}
		}
	}
	if said := run(t, dir, nil, "stage/amd64/freezeframe", "version"); !strings.Contains(said, "freezeframe 1.0\ncommit      0123\n") {
		t.Errorf("the binary is stamped %q", said)
	}
}

// lifecycle installs into a copy of this machine's own root, which an overlay in
// memory keeps as it is; there systemd does not run.
func lifecycle(t *testing.T, dir string) {
	for _, tool := range []string{"dpkg", "unshare", "chroot"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is missing: the Debian package is not tried")
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts an overlay")
	}
	next := t.TempDir()
	run(t, dir, nil, "cp", "-r", "stage", next)
	run(t, "..", append([]string{"PACKAGE_VERSION=1.1"}, stamp[0]), "./systemd/package.sh", next)
	script, err := filepath.Abs("testdata/lifecycle.sh")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(run(t, "/", nil, "unshare", "--mount", "sh", script, filepath.Join(dir, "freezeframe_1.0-1_amd64.deb"), filepath.Join(next, "freezeframe_1.1-1_amd64.deb")))
}
