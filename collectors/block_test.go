package collectors

import (
	"os"
	"slices"
	"testing"

	"freezeframe"
	"freezeframe/bpf"
)

// programs loads one BPF family for a test, or skips it where this machine
// takes none.
func programs(t *testing.T, family string) *bpf.Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	p := bpf.Load(bpf.Options{Without: slices.DeleteFunc(bpf.Names(), func(n string) bool { return n == family })})
	t.Cleanup(p.Close)
	return p
}

// TestBPFReadsWithoutAllocation holds every collector that reads BPF to what
// the conformance suite asks of the others.
func TestBPFReadsWithoutAllocation(t *testing.T) {
	for _, name := range []string{"block", "reclaim", "journal", "teardown"} {
		p := programs(t, name)
		list := known(p)
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

// Where the programs are not there, neither is the source.
func TestBPFNotHere(t *testing.T) {
	for _, k := range fromBPF(&bpf.Programs{}) {
		if err := k.Open(live()); err == nil || k.have {
			t.Errorf("%s opens without programs", k.Source().Name)
		}
	}
	if got := len(known(&bpf.Programs{})); got != 0 {
		t.Errorf("%d collectors of programs that are not loaded", got)
	}
}
