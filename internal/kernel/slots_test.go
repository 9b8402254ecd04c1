package kernel

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// TestSlotsTakeOnlyWhatWasWritten holds the memory of a large table of which a
// few values are written against the size of the table, and sees it given back.
func TestSlotsTakeOnlyWhatWasWritten(t *testing.T) {
	type row struct{ a, b uint64 }
	const n = 4 << 20 // 64 MiB
	owner := new([64]byte)
	before := ProcessUsage().RSSBytes
	rows := Slots[row](owner, n)
	if len(rows) != n || cap(rows) != n {
		t.Fatalf("%d slots of %d, want %d", len(rows), cap(rows), n)
	}
	for i := range 8 {
		rows[i*n/8].b = 7
	}
	if rows[1] != (row{}) || rows[n/8].b != 7 {
		t.Error("slots do not keep what they are given")
	}
	if grown := int64(ProcessUsage().RSSBytes) - int64(before); grown > 16<<20 {
		t.Errorf("a table of %d bytes with 8 rows in use takes %d", n*unsafe.Sizeof(row{}), grown)
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(rows)))
	rows = nil
	runtime.KeepAlive(owner)
	owner = nil
	for range 100 {
		runtime.GC()
		if !isMapped(t, at) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the table is still mapped, and its owner is gone")
}

// isMapped tells whether a mapping begins at an address.
func isMapped(t *testing.T, at uintptr) bool {
	for _, m := range allMappings(t) {
		if m[0] <= at && at < m[1] {
			return true
		}
	}
	return false
}

func allMappings(t *testing.T) (out [][2]uintptr) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		from, rest, _ := strings.Cut(line, "-")
		to, _, _ := strings.Cut(rest, " ")
		a, _ := strconv.ParseUint(from, 16, 64)
		z, _ := strconv.ParseUint(to, 16, 64)
		out = append(out, [2]uintptr{uintptr(a), uintptr(z)})
	}
	return out
}

// TestSlotsRefusePointers has the defect that would be a crash much later
// noticed at once.
func TestSlotsRefusePointers(t *testing.T) {
	type inner struct{ names [2]string }
	for name, f := range map[string]func(){
		"pointer": func() { Slots[*int](t, 1) },
		"string":  func() { Slots[inner](t, 1) },
		"slice":   func() { Slots[[]int](t, 1) },
		"func":    func() { Slots[struct{ f func() }](t, 1) },
		"any":     func() { Slots[any](t, 1) },
		"map":     func() { Slots[map[int]int](t, 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("slots of a %s are taken", name)
				}
			}()
			f()
		}()
	}
}

// TestProgramMappings has only the unchanged pages of the program found: not
// its data, not what was relocated, not another file's.
func TestProgramMappings(t *testing.T) {
	const smaps = `00400000-00bc1000 r-xp 00000000 fe:00 77                         /usr/bin/freezeframe
Size:               7940 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00bc1000-0136b000 r--p 007c1000 fe:00 77                         /usr/bin/freezeframe
Anonymous:             4 kB
0136b000-01489000 rw-p 00f6b000 fe:00 77                         /usr/bin/freezeframe
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 78                 /usr/lib/libc.so.6
Anonymous:             0 kB
7f0000200000-7f0000300000 r--p 00000000 00:00 0
Anonymous:             0 kB
00500000-00600000 r--p 00000000 fe:00 77                         /usr/bin/freezeframe
Anonymous:             0 kB
`
	want := [][2]uintptr{{0x400000, 0xbc1000}, {0x500000, 0x600000}}
	if have := programMappings([]byte(smaps), "/usr/bin/freezeframe"); !slices.Equal(have, want) {
		t.Errorf("found %x, want %x", have, want)
	}
	if err := ReleaseText(); err != nil {
		t.Error(err)
	}
}
