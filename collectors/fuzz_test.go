package collectors

import (
	"os"
	"path/filepath"
	"testing"

	"freezeframe"
)

// fuzz seeds with every tree's file of that name and runs parse, which must
// not panic and must leave a whole table of the given width.
func fuzz(f *testing.F, name string, width int, parse func(*freezeframe.Table, []byte)) {
	files, err := filepath.Glob(filepath.Join(trees, "*", "proc", name))
	if err != nil || len(files) == 0 {
		f.Fatalf("no tree has %s (%v)", name, err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := string(b)
		var table freezeframe.Table
		parse(&table, wholeLines(b))
		if len(table.Vals) != width*len(table.Keys) {
			t.Errorf("%d values for %d rows of %d columns", len(table.Vals), len(table.Keys), width)
		}
		if string(b) != before {
			t.Error("the file's bytes were changed")
		}
	})
}

func FuzzStat(f *testing.F) {
	fuzz(f, "stat", statWidth, func(t *freezeframe.Table, b []byte) { parseStat(t, b) })
}

func FuzzPressure(f *testing.F) {
	fuzz(f, "pressure/*", pressureWidth, func(t *freezeframe.Table, b []byte) { parsePressure(b) })
}

func FuzzVmstat(f *testing.F) {
	c := new(vmstat)
	columns := c.Source().Columns
	c.column, c.width = names(columns), len(columns)
	fuzz(f, "vmstat", c.width, func(t *freezeframe.Table, b []byte) { c.parse(t, b) })
}

func FuzzMeminfo(f *testing.F) {
	c := &meminfo{column: map[string]int{"MemTotal:": 0, "MemFree:": 1}}
	fuzz(f, "meminfo", len(meminfoColumns), func(t *freezeframe.Table, b []byte) { c.parse(t, b) })
}

func FuzzDiskstats(f *testing.F) {
	texts := dictionary{}
	fuzz(f, "diskstats", diskWidth, func(t *freezeframe.Table, b []byte) { parseDiskstats(t, b, texts) })
}

func FuzzInterrupts(f *testing.F) {
	c := &interrupts{texts: dictionary{}}
	fuzz(f, "interrupts", interruptsWidth, func(t *freezeframe.Table, b []byte) { c.parse(t, b) })
}

func FuzzSoftirqs(f *testing.F) {
	c := new(softirqs)
	fuzz(f, "softirqs", len(softirqWords), func(t *freezeframe.Table, b []byte) { c.parse(t, b) })
}

func FuzzSoftnet(f *testing.F) {
	fuzz(f, "net/softnet_stat", softnetWidth, func(t *freezeframe.Table, b []byte) { parseSoftnet(t, b) })
}

func FuzzNetstat(f *testing.F) {
	c := new(netstat)
	c.prepare()
	fuzz(f, "net/netstat", c.width, func(t *freezeframe.Table, b []byte) { c.parse(t.Row(0, c.width), b) })
}

func FuzzSockstat(f *testing.F) {
	fuzz(f, "net/sockstat*", sockstatWidth, func(t *freezeframe.Table, b []byte) { parseSockstat(t.Row(0, sockstatWidth), b) })
}

func FuzzNetdev(f *testing.F) {
	c := &netdev{texts: dictionary{}}
	fuzz(f, "net/dev", netdevWidth, func(t *freezeframe.Table, b []byte) { c.parse(t, b) })
}

func FuzzLimits(f *testing.F) {
	fuzz(f, "net/stat/*", limitsWidth, func(t *freezeframe.Table, b []byte) {
		row := t.Row(0, limitsWidth)
		for _, l := range limitFiles {
			l.parse(row, b)
		}
	})
}
