package collectors

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

// walked opens procs and tasks on the iterator, or says why this machine
// cannot.
func walkCollectors(t testing.TB, h freezeframe.Host) (*procs, *tasks, *bpf.Programs) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	programs := bpf.Load(bpf.Options{Without: slices.DeleteFunc(bpf.Names(), func(n string) bool { return n == "tasks" })})
	t.Cleanup(programs.Close)
	if programs.Tasks == nil {
		t.Fatal(programs.Needs())
	}
	c := newCensus()
	c.iterator = programs.Tasks
	p, ts := &procs{census: c}, &tasks{census: c}
	for _, x := range []freezeframe.Collector{p, ts} {
		if err := x.Open(h); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { x.Close() })
	}
	if c.walk == nil {
		t.Fatal("the census is not kept by the iterator")
	}
	for range 500 {
		if c.walk.names.Load() != nil {
			return p, ts, programs
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the kernel's names were never loaded")
	return nil, nil, nil
}

func child(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(name, args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

func TestTmpAgree(t *testing.T) {
	child(t, "sleep", "300")
	child(t, "sh", "-c", "while :; do sleep 0.02; done")
	st := child(t, "sleep", "300")
	st.Process.Signal(syscall.SIGSTOP)
	h := live()
	p, ts, _ := walkCollectors(t, h)
	po, to, _ := processCollectors(t, h)
	var pa, pb, ta, tb freezeframe.Table
	collect(t, p, &pa)
	collect(t, po, &pb)
	time.Sleep(300 * time.Millisecond)
	var pids []int32
	for _, k := range pb.Keys {
		pids = append(pids, int32(k.TID()))
	}
	stall(h, pids...)
	for range 3 {
		collect(t, po, &pb)
		collect(t, p, &pa)
		po.census.swept = false
		p.census.swept = false
		time.Sleep(50 * time.Millisecond)
	}
	collect(t, ts, &ta)
	collect(t, to, &tb)
	w := h.Texts.(dictionary)
	cmp := func(a, b *freezeframe.Table, c freezeframe.Collector) {
		cols := c.Source().Columns
		diff := map[string]int{}
		ex := map[string]string{}
		seen := 0
		for i, k := range b.Keys {
			j := slices.Index(a.Keys, k)
			if j < 0 {
				t.Logf("%s: %d not in walk: %s", c.Source().Name, k.TID(), w[b.Values(i, len(cols))[1]])
				continue
			}
			seen++
			x, y := a.Values(j, len(cols)), b.Values(i, len(cols))
			for n := range cols {
				if x[n] != y[n] {
					diff[cols[n].Name]++
					e := fmt.Sprintf("%d: walk %d, proc %d", k.TID(), int64(x[n]), int64(y[n]))
					if cols[n].Kind == freezeframe.Text {
						e = fmt.Sprintf("%d: walk %q, proc %q", k.TID(), w[x[n]], w[y[n]])
					}
					if diff[cols[n].Name] < 6 {
						ex[cols[n].Name] += "\n      " + e
					}
				}
			}
		}
		t.Logf("%s: walk %d proc %d both %d", c.Source().Name, len(a.Keys), len(b.Keys), seen)
		for n, c := range diff {
			t.Logf("  %s differs %d %s", n, c, ex[n])
		}
	}
	cmp(&pa, &pb, p)
	cmp(&ta, &tb, ts)
	_ = kernel.Now
}
func TestTmpOne(t *testing.T) {
	h := live()
	p, _, _ := walkCollectors(t, h)
	var pa freezeframe.Table
	collect(t, p, &pa)
	c := p.census
	s := c.byPID.get(1)
	t.Log(s)
	if s != none {
		q := &c.processes[s]
		t.Logf("%+v", q)
		t.Logf("%+v", c.byTID.get(1))
	}
	_, err := kernel.ReadAt(c.root, c.path(1, "/exe"), c.buf[:])
	t.Log(err)
}
