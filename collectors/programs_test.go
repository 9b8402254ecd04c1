package collectors

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// TestFromBPF holds what reads BPF programs to what every collector is held to:
// the columns stay, a reading allocates nothing, while calm and while stalled.
func TestFromBPF(t *testing.T) {
	p := programs(t)
	for _, k := range known(p, &kernelNames{}) {
		name := k.Source().Name
		t.Run(name, func(t *testing.T) {
			if !k.here {
				t.Fatalf("not loaded: %+v", p.Needs())
			}
			h := live()
			if err := k.Open(h); err != nil {
				t.Fatal(err)
			}
			defer closed(t, k)
			noAllocations(t, k)
			h.Focus.Suspect(freezeframe.Instant(1 << 62))
			noAllocations(t, k)
		})
	}
	for _, k := range known(&bpf.Programs{}, &kernelNames{}) {
		if err := k.Open(live()); err == nil {
			t.Errorf("%s opens without its programs", k.Source().Name)
		}
	}
}

// open returns the collector of a source, open.
func fromPrograms(t *testing.T, p *bpf.Programs, name string, h freezeframe.Host) freezeframe.Collector {
	t.Helper()
	for _, k := range known(p, &kernelNames{}) {
		if k.Source().Name == name && k.here {
			if err := k.Open(h); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closed(t, k) })
			return k
		}
	}
	t.Fatalf("%s is not loaded: %+v", name, p.Needs())
	return nil
}

// cells returns the named columns of every row of a reading, texts as such.
func cells(t *testing.T, c freezeframe.Collector, h freezeframe.Host) []map[string]any {
	t.Helper()
	var table freezeframe.Table
	if err := collect(t, c, &table); err != nil {
		t.Fatal(err)
	}
	src := c.Source()
	words := h.Texts.(dictionary)
	var out []map[string]any
	for i := range table.Keys {
		row := map[string]any{}
		for j, v := range table.Values(i, len(src.Columns)) {
			if src.Columns[j].Kind == freezeframe.Text {
				row[src.Columns[j].Name] = words[v]
			} else {
				row[src.Columns[j].Name] = int64(v)
			}
		}
		out = append(out, row)
	}
	return out
}

func TestSignalsAndParents(t *testing.T) {
	p, h := programs(t), live()
	signals, parents := fromPrograms(t, p, "signals", h), fromPrograms(t, p, "parents", h)
	child := exec.Command("/bin/sh", "-c", "/bin/true; /bin/true; exec /bin/sleep 60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := int64(child.Process.Pid)
	for comm := ""; comm != "sleep\n"; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		comm = string(b)
	}
	_ = child.Process.Signal(unix.SIGSTOP)
	_ = child.Process.Kill()
	_ = child.Wait()
	var told []int64
	for _, row := range cells(t, signals, h) {
		if row["pid"] == pid && row["kind"] == "signal" {
			told = append(told, row["signal"].(int64))
			if row["from_pid"] != int64(os.Getpid()) || row["comm"] != "sleep" || row["from_kernel"] != int64(0) {
				t.Errorf("%v", row)
			}
		}
	}
	if len(told) != 2 || told[0] != int64(unix.SIGSTOP) || told[1] != int64(unix.SIGKILL) {
		t.Errorf("told %v, want STOP and KILL", told)
	}
	for _, row := range cells(t, parents, h) {
		if row["pid"] == pid {
			if row["forks"] != int64(2) || row["exits"] != int64(2) || row["ppid"] != int64(os.Getpid()) || row["exec"] != "true" {
				t.Errorf("%v", row)
			}
			return
		}
	}
	t.Error("the parent is not there")
}

// TestFailures: nothing is told while nothing stalls; in a stall, who was refused
// what, soon after it begins.
func TestFailures(t *testing.T) {
	p, h := programs(t, "failures"), live()
	c := fromPrograms(t, p, "failures", h)
	refuse := func() {
		t.Helper()
		// More than the kernel can map: ENOMEM at once, with memory left.
		if _, err := unix.Mmap(-1, 0, 1<<60, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON); err != unix.ENOMEM {
			t.Fatalf("mmap: %v", err)
		}
	}
	own := func() map[string]any {
		for _, row := range cells(t, c, h) {
			if row["pid"] == int64(os.Getpid()) && row["syscall"] == "mmap" && row["errno"] == "ENOMEM" {
				return row
			}
		}
		return nil
	}
	refuse()
	if row := own(); row != nil {
		t.Errorf("told while nothing stalls: %v", row)
	}
	h.Focus.Suspect(freezeframe.Instant(1 << 62))
	began := kernel.Now()
	var row map[string]any
	for deadline := time.Now().Add(5 * time.Second); row == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not told 5 s after the stall began")
		}
		refuse()
		row = own()
	}
	n := row["failures"].(int64)
	refuse()
	if row = own(); row["failures"] != n+1 || row["uid"] != int64(os.Getuid()) {
		t.Errorf("%d failures, and then one more: %v", n, row)
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	if row["comm"].(string)+"\n" != string(comm) {
		t.Errorf("of %q, want %q", row["comm"], comm)
	}
	if first, last := row["first_ns"].(int64), row["last_ns"].(int64); first < int64(began) || last < first || last > int64(kernel.Now()) {
		t.Errorf("from %d to %d, began at %d", first, last, began)
	}
}

// TestAttacher: the last wish holds, and nothing stays attached.
func TestAttacher(t *testing.T) {
	calls := make(chan bool, 64)
	a, err := attach(func(on bool) error { calls <- on; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, on := range []bool{true, false, true} {
		a.want(on)
	}
	last := false
	for range 3 {
		select {
		case last = <-calls:
		case <-time.After(5 * time.Second):
			t.Fatal("a wish was not heard")
		}
	}
	if !last {
		t.Error("detached, though attached was the last wish")
	}
	a.stop()
	select {
	case on := <-calls:
		if on {
			t.Error("attached at the end")
		}
	case <-time.After(5 * time.Second):
		t.Error("not detached at the end")
	}
}
