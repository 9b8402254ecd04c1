package kernel

import (
	"encoding/binary"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The offsets are those of the kernel's own structure.
func TestTaskstatsOffsets(t *testing.T) {
	var s unix.Taskstats
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"cpu", tsCPU, unsafe.Offsetof(s.Cpu_delay_total)},
		{"blkio", tsBlockIO, unsafe.Offsetof(s.Blkio_delay_total)},
		{"swapin", tsSwapIn, unsafe.Offsetof(s.Swapin_delay_total)},
		{"freepages", tsFreePages, unsafe.Offsetof(s.Freepages_delay_total)},
		{"thrashing", tsThrashing, unsafe.Offsetof(s.Thrashing_delay_total)},
		{"compact", tsCompact, unsafe.Offsetof(s.Compact_delay_total)},
		{"wpcopy", tsWPCopy, unsafe.Offsetof(s.Wpcopy_delay_total)},
	} {
		if c.got != c.want {
			t.Errorf("%s is read at %d, the structure has it at %d", c.name, c.got, c.want)
		}
	}
}

// A thread's CPU delay by netlink is the run delay that the scheduler shows in
// /proc, and asking allocates nothing.
func TestTaskstatsLive(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ts, err := OpenTaskstats()
	if err != nil {
		if os.Geteuid() == 0 && hasCapability(unix.CAP_NET_ADMIN) {
			t.Fatal(err)
		}
		t.Skipf("taskstats needs CAP_NET_ADMIN: %v", err)
	}
	defer ts.Close()
	const nobody = 1<<22 - 3 // above pid_max everywhere but on the largest machines
	tids := []int32{int32(unix.Gettid()), nobody, int32(os.Getpid())}
	var delays [3]Delays
	var ok [3]bool
	runDelay := func() uint64 {
		b, err := os.ReadFile("/proc/thread-self/schedstat")
		if err != nil {
			t.Fatal(err)
		}
		s := Scan(b)
		s.Skip(1)
		v, _ := s.Uint()
		return v
	}
	// The two are read one after the other, so the thread may have waited in
	// between: netlink must lie between two readings of /proc.
	for try := 0; ; try++ {
		before := runDelay()
		ts.Ask(tids)
		if err := ts.Answers(delays[:], ok[:]); err != nil {
			t.Fatal(err)
		}
		after := runDelay()
		if !ok[0] || ok[1] || !ok[2] {
			t.Fatalf("answers %v, want the first and the last", ok)
		}
		if delays[0].CPU >= before && delays[0].CPU <= after && after > 0 {
			break
		}
		if try == 50 {
			t.Fatalf("cpu delay %d, /proc shows %d before and %d after", delays[0].CPU, before, after)
		}
		time.Sleep(time.Millisecond)
	}
	if n := testing.AllocsPerRun(50, func() {
		ts.Ask(tids)
		_ = ts.Answers(delays[:], ok[:])
	}); n != 0 {
		t.Errorf("%v allocations for one batch", n)
	}
	// A full batch comes back whole.
	var many [TaskstatsBatch]int32
	for i := range many {
		many[i] = tids[0]
	}
	var manyDelays [TaskstatsBatch]Delays
	var manyOK [TaskstatsBatch]bool
	ts.Ask(many[:])
	if err := ts.Answers(manyDelays[:], manyOK[:]); err != nil {
		t.Fatal(err)
	}
	for i := range manyOK {
		if !manyOK[i] {
			t.Fatalf("answer %d of a full batch is missing", i)
		}
	}
}

func taskstatsAnswer(version uint16, size int, fill func([]byte)) []byte {
	stats := make([]byte, size)
	binary.NativeEndian.PutUint16(stats, version)
	fill(stats)
	attr := func(kind uint16, b []byte) []byte {
		out := make([]byte, 4, 4+len(b))
		binary.NativeEndian.PutUint16(out, uint16(4+len(b)))
		binary.NativeEndian.PutUint16(out[2:], kind)
		return append(out, b...)
	}
	inner := append(attr(unix.TASKSTATS_TYPE_PID, make([]byte, 4)), attr(unix.TASKSTATS_TYPE_NULL, nil)...)
	inner = append(inner, attr(unix.TASKSTATS_TYPE_STATS, stats)...)
	return append(make([]byte, genlHeader), attr(unix.TASKSTATS_TYPE_AGGR_PID, inner)...)
}

func TestParseTaskstatsVersions(t *testing.T) {
	fill := func(b []byte) {
		for _, o := range []int{tsCPU, tsBlockIO, tsSwapIn, tsFreePages, tsThrashing, tsCompact, tsWPCopy} {
			if o+8 <= len(b) {
				binary.NativeEndian.PutUint64(b[o:], uint64(o))
			}
		}
	}
	var d Delays
	if !parseTaskstats(taskstatsAnswer(8, 328, fill), &d) || d.FreePages != tsFreePages || d.Thrashing != 0 || d.WriteProtectCopy != 0 {
		t.Errorf("version 8: %+v", d)
	}
	if !parseTaskstats(taskstatsAnswer(16, 560, fill), &d) || d.WriteProtectCopy != tsWPCopy || d.CPU != tsCPU {
		t.Errorf("version 16: %+v", d)
	}
	if parseTaskstats(taskstatsAnswer(15, 560, fill), &d) {
		t.Error("version 15 has another layout and was read all the same")
	}
}

func FuzzTaskstats(f *testing.F) {
	f.Add(taskstatsAnswer(16, 560, func([]byte) {}))
	f.Add(taskstatsAnswer(8, 328, func([]byte) {}))
	f.Add([]byte(strings.Repeat("\x04\x00\x04\x80", 20)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Delays
		parseTaskstats(b, &d)
		kind, body, _, ok := genlAnswer(b)
		if ok && kind == unix.NLMSG_ERROR {
			_ = answerError(body)
		}
	})
}
