package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// loop makes a loop device over a new sparse file, for the test's time.
func loop(t *testing.T, megabytes int) (device string, dev uint32) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, int64(megabytes)<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device to be had: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %v: %s", device, err, out)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	return device, unix.Major(st.Rdev)<<20 | unix.Minor(st.Rdev)
}

// loopFS mounts a new ext4 in a loop device.
func loopFS(t *testing.T, megabytes int) (mount, device string, dev uint32) {
	t.Helper()
	device, dev = loop(t, megabytes)
	mount = t.TempDir()
	for _, cmd := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device},
		{"mount", "-o", "noatime", device, mount},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", strings.Join(cmd, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return mount, device, dev
}

// of returns what a process did on a device; nil when it is not known there.
func (b *Block) of(dev, tgid uint32) *BlockIssuer {
	for i := range b.Issuers() {
		if s := &b.Issuers()[i]; s.Dev == dev && s.TGID == tgid && s.LastNanos != 0 {
			c := *s
			return &c
		}
	}
	return &BlockIssuer{}
}

func (b *Block) disk(dev uint32) BlockDevice {
	for _, d := range b.Devices() {
		if d.Dev == dev {
			return d
		}
	}
	return BlockDevice{}
}

func page(t *testing.T, n int) []byte {
	t.Helper()
	buf, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(buf) })
	return buf
}

// TestBlockCountsAreExact reads and writes past the page cache: each request
// is the process's, with its bytes, and none is left in flight.
func TestBlockCountsAreExact(t *testing.T) {
	p := load(t)
	b := p.Block
	if b == nil {
		t.Fatal("no block")
	}
	device, dev := loop(t, 64)
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	self := uint32(os.Getpid())
	before, diskBefore := b.of(dev, self), b.disk(dev)
	buf := page(t, 16<<10)
	begun := kernel.Now()
	const reads, writes, syncs = 300, 200, 7
	for i := range int64(reads) {
		if _, err := unix.Pread(fd, buf[:4096], i*64<<10); err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(writes) {
		if _, err := unix.Pwrite(fd, buf, i*128<<10); err != nil {
			t.Fatal(err)
		}
	}
	for range syncs {
		if err := unix.Fsync(fd); err != nil {
			t.Fatal(err)
		}
	}
	took := kernel.Now().Sub(begun)
	s, d := b.of(dev, self), b.disk(dev)
	if got := s.Reads - before.Reads; got != reads {
		t.Errorf("%d reads, want %d", got, reads)
	}
	if got := s.ReadBytes - before.ReadBytes; got != reads*4096 {
		t.Errorf("%d bytes read, want %d", got, reads*4096)
	}
	if got := s.Writes - before.Writes; got != writes {
		t.Errorf("%d writes, want %d", got, writes)
	}
	if got := s.WriteBytes - before.WriteBytes; got != writes*16<<10 {
		t.Errorf("%d bytes written, want %d", got, writes*16<<10)
	}
	if got := s.Flushes - before.Flushes; got != syncs && p.tells("block_io_start") {
		t.Errorf("%d flushes, want %d", got, syncs)
	}
	// Of older kernels' flushes it is not known who asked for them.
	if got := d.Flushes - diskBefore.Flushes; got < syncs {
		t.Errorf("%d flushes of the device, want %d", got, syncs)
	}
	if s.Via != ViaItself || string(s.Comm()) == "" {
		t.Errorf("via %d, comm %q", s.Via, s.Comm())
	}
	var sum uint64
	for i := range d.Buckets {
		sum += d.Buckets[i] - diskBefore.Buckets[i]
	}
	if sum < reads+writes {
		t.Errorf("%d requests in the histogram, want %d", sum, reads+writes)
	}
	// One after the other: the times add up to no more than what went by.
	if all := time.Duration(s.DeviceNanos + s.QueueNanos + s.FlushNanos - before.DeviceNanos - before.QueueNanos - before.FlushNanos); all > took || all < took/10 {
		t.Errorf("requests took %v of %v", all, took)
	}
	if d.Errors != diskBefore.Errors || string(d.Name()) != filepath.Base(device) {
		t.Errorf("%d errors on %q", d.Errors-diskBefore.Errors, d.Name())
	}
	for _, f := range b.Flights() {
		if f.Request != 0 && b.Devices()[f.Device&63].Dev == dev {
			t.Errorf("left in flight: %+v", f)
		}
	}
	if b.Lost() != 0 {
		t.Errorf("%d requests lost", b.Lost())
	}
}

// TestWritebackIsItsWriters: what a kernel thread writes of a file is charged
// to who wrote the file, on the loop device and on the disk below it.
func TestWritebackIsItsWriters(t *testing.T) {
	b := load(t).Block
	if b == nil {
		t.Fatal("no block")
	}
	mount, _, dev := loopFS(t, 128)
	file := filepath.Join(mount, "data")
	cmd := exec.Command("dd", "if=/dev/zero", "of="+file, "bs=1M", "count=24", "status=none")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	dd := uint32(cmd.Process.Pid)
	// syncfs starts the flusher's kworker; the file's data is written by it.
	fd, err := unix.Open(mount, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		t.Fatal(err)
	}
	s := b.of(dev, dd)
	if s.WriteBytes < 24<<20 || s.WriteBytes > 25<<20 {
		t.Errorf("dd (%d) wrote 24 MiB, which was written back: charged with %d bytes, via %d", dd, s.WriteBytes, s.Via)
	}
	if string(s.Comm()) != "dd" {
		t.Errorf("comm %q; want dd", s.Comm())
	}
	for _, x := range b.Issuers() {
		if x.Dev == dev && x.Via == ViaKernel && x.WriteBytes > 1<<20 {
			t.Errorf("%s is charged with %d bytes of dd's", x.Comm(), x.WriteBytes)
		}
	}
	// The loop's backing file is dirtied by the loop's kworker, for dd or us.
	var below uint64
	for _, x := range b.Issuers() {
		if x.Dev != dev && (x.TGID == dd || x.TGID == uint32(os.Getpid())) && x.Via == ViaLoop {
			below += x.WriteBytes
		}
	}
	if below < 20<<20 {
		t.Errorf("on the disk below the loop device: %d bytes are charged to dd or to who synced", below)
		for _, x := range b.Issuers() {
			if x.LastNanos != 0 {
				t.Logf("dev %x tgid %d %q via %d: %d bytes written", x.Dev, x.TGID, x.Comm(), x.Via, x.WriteBytes)
			}
		}
	}
}

// TestOldestRequestIsSeen holds a request of a loop device up, by freezing the
// filesystem that its file lies on, and looks for it in flight.
func TestOldestRequestIsSeen(t *testing.T) {
	b := load(t).Block
	if b == nil {
		t.Fatal("no block")
	}
	outer, _, _ := loopFS(t, 64)
	file := filepath.Join(outer, "inner")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", device).Run()
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	dev := unix.Major(st.Rdev)<<20 | unix.Minor(st.Rdev)
	dir, err := unix.Open(outer, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	const freeze, thaw = 0xC0045877, 0xC0045878
	if err := unix.IoctlSetInt(dir, freeze, 0); err != nil {
		t.Fatal(err)
	}
	thawed := false
	defer func() {
		if !thawed {
			_ = unix.IoctlSetInt(dir, thaw, 0)
		}
	}()
	cmd := exec.Command("dd", "if=/dev/zero", "of="+device, "bs=4k", "count=1", "oflag=direct", "conv=notrunc", "status=none")
	begun := kernel.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dd := uint32(cmd.Process.Pid)
	look := func() *BlockFlight {
		for i := range b.Flights() {
			if f := b.Flights()[i]; f.Request != 0 && f.Issued != 0 && b.Devices()[f.Device&63].Dev == dev {
				return &f
			}
		}
		return nil
	}
	var found *BlockFlight
	for until := time.Now().Add(10 * time.Second); found == nil && time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		found = look()
	}
	seen := kernel.Now()
	time.Sleep(300 * time.Millisecond)
	found = look()
	now := kernel.Now()
	if err := unix.IoctlSetInt(dir, thaw, 0); err != nil {
		t.Fatal(err)
	}
	thawed = true
	if err := cmd.Wait(); err != nil {
		t.Errorf("dd: %v", err)
	}
	if found == nil {
		t.Fatal("a request that hung was not seen in flight")
	}
	if age := now.Sub(freezeframe.Instant(found.Issued)); age < now.Sub(seen) || age > now.Sub(begun) {
		t.Errorf("%v old; it was seen for %v, and dd was started %v ago", age, now.Sub(seen), now.Sub(begun))
	}
	if found.TGID != dd || found.Op != OpWrite {
		t.Errorf("of process %d (dd is %d), operation %d", found.TGID, dd, found.Op)
	}
	if left := look(); left != nil {
		t.Errorf("done, and still in flight: %+v", left)
	}
}

func TestBlockLayout(t *testing.T) {
	if n := unsafe.Sizeof(BlockDevice{}); n != 1152 {
		t.Errorf("BlockDevice has %d bytes", n)
	}
	from, width := BucketNanos(0)
	for i := 1; i < blockBuckets; i++ {
		f, w := BucketNanos(i)
		if f != from+width {
			t.Fatalf("bucket %d begins at %d, the one before ends at %d", i, f, from+width)
		}
		from, width = f, w
	}
	if fmt.Sprint(from>>30) == "0" || strconv.Itoa(int(width)) == "0" {
		t.Errorf("the last bucket begins at %d ns", from)
	}
}
