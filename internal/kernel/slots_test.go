package kernel

import (
	"os"
	"runtime"
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
	type inner struct{ Names [2]string }
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

// TestMoreSlotsGiveBack sees a table that grows keep what it holds, and what it
// was in before given back at once: a lane's tables are locked in memory.
func TestMoreSlotsGiveBack(t *testing.T) {
	type row struct{ a, b uint64 }
	owner, room := new([64]byte), Room{}
	var rows []row
	before := ProcessUsage().RSSBytes
	for n := 1 << 16; n <= 1<<21; n *= 2 { // 1 to 32 MiB
		at := uintptr(unsafe.Pointer(unsafe.SliceData(rows)))
		had := len(rows)
		rows = MoreSlots(owner, &room, rows, n)
		if len(rows) != n || had > 0 && (rows[had-1] != row{uint64(had), 7}) || rows[had] != (row{}) {
			t.Fatalf("%d slots after %d do not hold what they did", len(rows), had)
		}
		if had > 0 && isMapped(t, at) {
			t.Errorf("the memory of %d slots is still there", had)
		}
		for i := range rows {
			rows[i] = row{uint64(i + 1), 7}
		}
	}
	if grown := int64(ProcessUsage().RSSBytes) - int64(before); grown > 44<<20 {
		t.Errorf("a table of 32 MiB takes %d MiB", grown>>20)
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
