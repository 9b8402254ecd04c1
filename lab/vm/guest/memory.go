package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"freezeframe/lab/vm/wire"

	"golang.org/x/sys/unix"
)

const extents = "/" + wire.ExtentsName

// memoryDisk copies a disk into a block device in memory and returns that. A
// machine whose clock counts its instructions does so that nothing in a run
// waits for the host: the clock runs on through every timer meanwhile, and the
// host's disk would seem to take seconds. What there is to copy stands in the
// file of extents: holes are not read.
func memoryDisk(disk string) (string, error) {
	to, err := nullBlock(disk)
	if err != nil {
		return "", fmt.Errorf("make a disk in memory: %w", err)
	}
	if err := copyExtents(disk, to); err != nil {
		return "", fmt.Errorf("copy %s to memory: %w", disk, err)
	}
	return to, nil
}

// nullBlock makes a device of the size of another with the null_blk driver
// (the kernel's Documentation/block/null_blk.rst; its configfs files are those
// of drivers/block/null_blk/main.c).
func nullBlock(like string) (string, error) {
	sectors, err := os.ReadFile("/sys/block/" + filepath.Base(like) + "/size")
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(sectors)))
	if err != nil {
		return "", err
	}
	const config = "/config"
	if err := mount("configfs", config, "configfs", 0, ""); err != nil {
		return "", err
	}
	dir := config + "/nullb/nullb0" // newer kernels name the device so
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, set := range []struct{ file, value string }{
		{"size", strconv.Itoa((n + 2047) / 2048)}, // MiB
		{"memory_backed", "1"},
		{"power", "1"},
	} {
		if err := os.WriteFile(filepath.Join(dir, set.file), []byte(set.value), 0); err != nil {
			return "", err
		}
	}
	if err := unix.Unmount(config, 0); err != nil {
		return "", err
	}
	return "/dev/nullb0", nil
}

func copyExtents(from, to string) error {
	list, err := os.Open(extents)
	if err != nil {
		return err
	}
	defer list.Close()
	in, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", from, err)
	}
	defer unix.Close(in)
	out, err := unix.Open(to, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", to, err)
	}
	defer unix.Close(out)
	const chunk = 1 << 20
	buf, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		var offset, end int64
		if _, err := fmt.Sscan(lines.Text(), &offset, &end); err != nil {
			return fmt.Errorf("read the extents: %w", err)
		}
		for offset < end {
			part := buf[:min(chunk, end-offset)]
			n, err := unix.Pread(in, part, offset)
			if err != nil || n != len(part) {
				return fmt.Errorf("read at %d: %d of %d bytes: %w", offset, n, len(part), err)
			}
			if n, err = unix.Pwrite(out, part, offset); err != nil || n != len(part) {
				return fmt.Errorf("write at %d: %d of %d bytes: %w", offset, n, len(part), err)
			}
			offset += int64(len(part))
		}
	}
	return lines.Err()
}

// inMemory tells whether the machine's root belongs there.
func inMemory() bool {
	_, err := os.Stat(extents)
	return err == nil
}
