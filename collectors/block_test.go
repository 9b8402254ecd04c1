package collectors

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// TestBPFReadsWithoutAllocation holds every collector that reads BPF to what
// the conformance suite asks of the others.
func TestBPFReadsWithoutAllocation(t *testing.T) {
	for _, name := range []string{"block", "reclaim", "journal", "teardown"} {
		p := programs(t, name)
		var list []freezeframe.Collector
		for _, k := range known(p) {
			if k.here {
				list = append(list, k.Collector)
			}
		}
		if len(list) == 0 {
			t.Fatalf("%s: no collector: %+v", name, p.Needs())
		}
		if err := os.WriteFile(t.TempDir()+"/x", make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			t.Run(c.Source().Name, func(t *testing.T) {
				if err := c.Open(live()); err != nil {
					t.Fatal(err)
				}
				defer closed(t, c)
				var table freezeframe.Table
				if err := collect(t, c, &table); err != nil {
					t.Fatal(err)
				}
				noAllocations(t, c)
			})
		}
	}
}

// TestBlockTables reads a loop device past the page cache: the tables say how
// often, how much, by whom, and how long a read took.
func TestBlockTables(t *testing.T) {
	p := programs(t, "block")
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device to be had: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", device).Run()
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)
	h := live()
	words := h.Texts.(dictionary)
	disk, issuers := &block{from: p.Block}, &blockIssuers{from: p.Block}
	for _, c := range []freezeframe.Collector{disk, issuers} {
		if err := c.Open(h); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Base(device)
	read := func() (diskRow, issuerRow []uint64) {
		var a, b freezeframe.Table
		a.At, b.At = kernel.Now(), kernel.Now()
		if err := errors.Join(disk.Collect(&a), issuers.Collect(&b)); err != nil {
			t.Fatal(err)
		}
		for i, k := range a.Keys {
			if words[uint64(k)] == name {
				diskRow = slices.Clone(a.Values(i, blockWidth))
			}
		}
		for i := range b.Keys {
			if row := b.Values(i, issuerWidth); words[row[issuerDevice]] == name && int(row[issuerPID]) == os.Getpid() {
				issuerRow = slices.Clone(row)
			}
		}
		return diskRow, issuerRow
	}
	if _, err := unix.Pread(fd, buf, 0); err != nil {
		t.Fatal(err)
	}
	d0, i0 := read()
	if d0 == nil || i0 == nil {
		t.Fatalf("no rows for %s: %v %v", name, d0, i0)
	}
	const reads = 200
	var slowest, fastest int64
	for i := range int64(reads) {
		begun := kernel.Now()
		if _, err := unix.Pread(fd, buf, i*4096); err != nil {
			t.Fatal(err)
		}
		took := int64(kernel.Now().Sub(begun))
		slowest = max(slowest, took)
		if fastest == 0 || took < fastest {
			fastest = took
		}
	}
	d, i := read()
	if got := i[issuerReads] - i0[issuerReads]; got != reads {
		t.Errorf("%d reads, want %d", got, reads)
	}
	if got := i[issuerReadBytes] - i0[issuerReadBytes]; got != reads*4096 {
		t.Errorf("%d bytes, want %d", got, reads*4096)
	}
	if words[i[issuerVia]] != "" || words[i[issuerComm]] == "" || i[issuerInFlight] != 0 {
		t.Errorf("via %q, comm %q, %d in flight", words[i[issuerVia]], words[i[issuerComm]], i[issuerInFlight])
	}
	if got := d[blockDone] - d0[blockDone]; got < reads {
		t.Errorf("the disk did %d requests, want %d", got, reads)
	}
	// A request is no longer in the device than its system call takes; a bucket
	// is a quarter wide.
	if p50, p99 := int64(d[blockP50]), int64(d[blockP99]); p50 <= 0 || p50 > p99 || p99 > slowest*5/4+2048 {
		t.Errorf("median %d ns, 99th percentile %d ns; the calls took %d to %d ns", p50, p99, fastest, slowest)
	}
	if d[blockInFlight] != 0 || d[blockOldest] != 0 {
		t.Errorf("%d in flight, the oldest for %d ns", d[blockInFlight], d[blockOldest])
	}
	// Nothing was done since: there is nothing to take a median of.
	if d, _ = read(); d[blockP50] != 0 {
		t.Errorf("a median of nothing: %d", d[blockP50])
	}
}
