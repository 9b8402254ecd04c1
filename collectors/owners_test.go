package collectors

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"freezeframe"
)

// However many processes there are, one listing reads the network namespaces of
// some only, and each has its turn.
func TestListingTakesTurns(t *testing.T) {
	const n = 3 * maxLooks
	proc := t.TempDir()
	born := func(pid int) {
		dir := filepath.Join(proc, fmt.Sprint(pid), "ns")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "net"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	born(1)
	o := &owners{namespaces: func(map[uint32]int32) {}}
	o.start(freezeframe.Host{Proc: proc, Focus: &freezeframe.Focus{}})
	o.rounds.stop() // from here on it is listed by hand
	for pid := range n {
		born(100 + pid)
	}
	known := func() (known, looks int) {
		for _, p := range o.processes {
			looks += int(p.looks)
			if p.inode != 0 {
				known++
			}
		}
		return known, looks
	}
	_, before := known()
	o.list()
	if _, looks := known(); looks-before > maxLooks || looks-before < maxLooks/2 {
		t.Errorf("%d namespaces read in a listing of %d new processes", looks-before, n)
	}
	for range 40 {
		o.list()
	}
	if known, _ := known(); known < n {
		t.Errorf("the namespaces of %d processes of %d are known", known, n)
	}
	// One that enters another later is found there.
	const late = 100
	was := o.processes[late].inode
	space := filepath.Join(proc, fmt.Sprint(late), "ns", "net")
	if err := os.Rename(space, space+".before"); err != nil { // it keeps its inode, which is not used again
		t.Fatal(err)
	}
	born(late)
	for range 15 {
		o.list()
	}
	if o.processes[late].inode == was {
		t.Error("a process that entered another namespace later is still in its first")
	}
}
