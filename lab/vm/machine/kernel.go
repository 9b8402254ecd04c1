package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the modules that the initial RAM disk loads; what they need comes
// along. Of those in spare a kernel may have none.
var (
	wanted = []string{"virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4", "null_blk"}
	spare  = []string{"crc32c_generic", "crc32c_intel"} // the checksum of ext4, asked for by the name of the algorithm
)

// unwanted drivers are most of a kernel package, and no machine here has them.
var unwanted = []string{
	"sound", "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/staging", "drivers/iio", "drivers/usb", "drivers/hid",
	"drivers/input", "drivers/isdn", "drivers/bluetooth", "drivers/platform", "drivers/hwmon", "drivers/mtd", "drivers/video",
	"drivers/net/wireless", "drivers/net/ethernet", "drivers/net/usb", "drivers/net/can", "net/bluetooth", "net/wireless", "net/mac80211",
	"drivers/scsi/aacraid", "drivers/scsi/lpfc", "drivers/scsi/qla2xxx", "drivers/scsi/mpt3sas", "drivers/scsi/bfa", "drivers/scsi/megaraid",
}

// splitKernel takes "package/suite" apart; the suite is the machine's own
// when there is none.
func splitKernel(name string) (pkg, suite string, err error) {
	pkg, suite, found := strings.Cut(name, "/")
	if !found {
		suite = Suite
	}
	for _, part := range []string{pkg, suite} {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "" {
			return "", "", fmt.Errorf("kernel %q is not PACKAGE or PACKAGE/SUITE", name)
		}
	}
	if !strings.HasPrefix(pkg, "linux-image-") {
		return "", "", fmt.Errorf("kernel package %q is not a linux-image-…", pkg)
	}
	return pkg, suite, nil
}

// kernel is an image of a kernel package: vmlinuz, modules.img (what stands in
// /lib/modules) and initrd/, the modules that its RAM disk loads, in order.
func (m *Machine) kernel(ctx context.Context) (string, error) {
	pkg, suite, err := splitKernel(m.Kernel)
	if err != nil {
		return "", err
	}
	k := key(slices.Concat([]string{"kernel", recipe, pkg, suite}, wanted, spare, unwanted)...)
	return m.image("kernel", k, func(dir string) error {
		from, err := sources(ctx, suite)
		if err != nil {
			return err
		}
		if from == nil && suite != Suite {
			return fmt.Errorf("apt here has no Debian archive to take %s from", suite)
		}
		m.logf("taking the kernel from %s of %s ...", pkg, suite)
		tree := filepath.Join(dir, "tree")
		if _, err := command(ctx, "mmdebstrap", kernelArgs(tree, pkg, suite, from)...); err != nil {
			return err
		}
		if err := takeKernel(ctx, tree, dir); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
}

func kernelArgs(tree, pkg, suite string, from []source) []string {
	if suite != Suite && strings.Contains(suite, "-") {
		pkg += "/" + suite // backports are not taken by themselves
	}
	// Extracted, not installed: nothing of it runs here. Its dependencies come
	// along and are thrown away.
	args := []string{"--variant=extract", "--format=directory", "--include=" + pkg}
	return append(append(args, suite, tree), oneLine(from)...)
}

// takeKernel takes what is needed out of an extracted package.
func takeKernel(ctx context.Context, tree, dir string) error {
	image, version, all, err := findKernel(tree)
	if err != nil {
		return err
	}
	if err := os.Rename(image, filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	for _, path := range unwanted {
		if err := os.RemoveAll(filepath.Join(all, version, "kernel", path)); err != nil {
			return err
		}
	}
	// depmod wants them below lib/modules.
	base := filepath.Join(dir, "base")
	if err := os.MkdirAll(filepath.Join(base, "lib"), 0o755); err != nil {
		return err
	}
	modules := filepath.Join(base, "lib/modules")
	if err := os.Rename(all, modules); err != nil {
		return err
	}
	if _, err := command(ctx, "depmod", "-b", base, version); err != nil {
		return err
	}
	if err := pickModules(filepath.Join(modules, version), filepath.Join(dir, "initrd")); err != nil {
		return err
	}
	if err := makeFilesystem(ctx, modules, filepath.Join(dir, "modules.img"), "512M"); err != nil {
		return err
	}
	return os.RemoveAll(base)
}

// findKernel finds what a package brought: the image, its version and where the
// modules of all versions are.
func findKernel(tree string) (image, version, modules string, err error) {
	var found []string
	// In /boot, or since Debian's 7.x packages beside the modules.
	for _, pattern := range []string{"boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz"} {
		some, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil {
			return "", "", "", err
		}
		found = append(found, some...)
	}
	if len(found) != 1 {
		return "", "", "", fmt.Errorf("the package brought %d kernels, not one", len(found))
	}
	image = found[0]
	version, inBoot := strings.CutPrefix(filepath.Base(image), "vmlinuz-")
	if !inBoot {
		version = filepath.Base(filepath.Dir(image))
	}
	for _, dir := range []string{"lib/modules", "usr/lib/modules"} {
		modules = filepath.Join(tree, dir)
		if _, err := os.Stat(filepath.Join(modules, version)); err == nil {
			return image, version, modules, nil
		}
	}
	return "", "", "", fmt.Errorf("the package brought no modules for %s", version)
}

// pickModules puts the modules of the RAM disk into to, unpacked.
func pickModules(from, to string) error {
	dep, err := os.ReadFile(filepath.Join(from, "modules.dep"))
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(from, "modules.builtin"))
	if err != nil {
		return err
	}
	order, err := moduleOrder(string(dep), string(builtin), wanted, spare)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for i, path := range order {
		text, err := unpackModule(filepath.Join(from, path))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, fmt.Sprintf("%02d-%s.ko", i, moduleName(path))), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// moduleName is the kernel's name of the module in a file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// moduleOrder returns the files of the modules, those that others need first.
// dep and builtin are modules.dep and modules.builtin of depmod(8).
func moduleOrder(dep, builtin string, want, spare []string) ([]string, error) {
	files := make(map[string]string)
	needs := make(map[string][]string)
	for line := range strings.Lines(dep) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		name := moduleName(file)
		files[name] = file
		needs[name] = strings.Fields(rest)
		slices.Reverse(needs[name]) // the last is needed by those before it
	}
	inside := make(map[string]bool)
	lines := bufio.NewScanner(strings.NewReader(builtin))
	for lines.Scan() {
		inside[moduleName(lines.Text())] = true
	}
	var order []string
	add := func(file string) {
		if !slices.Contains(order, file) {
			order = append(order, file)
		}
	}
	for _, name := range slices.Concat(spare, want) {
		file, ok := files[name]
		switch {
		case ok:
			for _, need := range needs[name] {
				add(need)
			}
			add(file)
		case inside[name] || slices.Contains(spare, name):
		default:
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
	}
	return order, nil
}

// unpackModule reads a module, which newer kernel packages compress.
func unpackModule(path string) ([]byte, error) {
	var tool string
	switch filepath.Ext(path) {
	case ".ko":
		return os.ReadFile(path)
	case ".xz":
		tool = "xz"
	case ".zst":
		tool = "zstd"
	default:
		return nil, fmt.Errorf("do not know how to unpack %s", filepath.Base(path))
	}
	out, err := exec.Command(tool, "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", filepath.Base(path), err)
	}
	return out, nil
}

// readModules returns the RAM disk's modules of a kernel image, in order.
func readModules(dir string) ([]cpioFile, error) {
	var files []cpioFile
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files = append(files, cpioFile{name: "modules/" + d.Name(), mode: 0o100644, data: text})
		return err
	})
	if err == nil && len(files) == 0 {
		err = errors.New("no modules in " + dir)
	}
	return files, err
}
