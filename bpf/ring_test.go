package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// TestRecordsFitBehindTheRing holds what the programs reserve in ring buffers
// against how much of a buffer is mapped again behind its end.
func TestRecordsFitBehindTheRing(t *testing.T) {
	reserves := 0
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"journal": loadJournal, "life": loadLife, "locks": loadLocks, "profile": loadProfile, "reclaim": loadReclaim,
		"requests": loadRequests, "teardown": loadTeardown, "timers": loadTimers, "waits": loadWaits,
	} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		here := 0
		for program, p := range spec.Programs {
			size := int64(-1)
			for _, in := range p.Instructions {
				if in.OpCode.Class().IsALU() && in.OpCode.ALUOp() == asm.Mov && in.OpCode.Source() == asm.ImmSource && in.Dst == asm.R2 {
					size = in.Constant
				}
				if !in.IsBuiltinCall() || asm.BuiltinFunc(in.Constant) != asm.FnRingbufReserve {
					continue
				}
				here++
				if size <= 0 || size+ringHeader > longestRecord {
					t.Errorf("%s: %s reserves %d bytes, of at most %d", name, program, size, longestRecord-ringHeader)
				}
			}
		}
		if here == 0 {
			t.Errorf("%s reserves nothing in a ring buffer", name)
		}
		reserves += here
	}
	t.Logf("%d places reserve records", reserves)
}
