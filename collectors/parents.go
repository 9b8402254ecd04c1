package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	parentsPID = iota
	parentsSince
	parentsForks
	parentsThreads
	parentsExecs
	parentsExits
	parentsRun
	parentsLived
	parentsComm
	parentsPPID
	parentsParentComm
	parentsExec
	parentsWidth
)

// parents reads who started processes, counted by parent in the kernel: what
// lived too briefly to be seen is in its parent's figures.
type parents struct {
	life  *bpf.Life
	texts freezeframe.Texts
	table *freezeframe.Table // of the reading that goes on
	take  func(uint32, *bpf.Parent)
}

func (c *parents) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "parents", From: "BPF: sched_process_fork, sched_process_exec, sched_process_exit", Key: "task",
		Every: time.Second, Stalled: 250 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			parentsPID:        {Name: "pid", Kind: gauge},
			parentsSince:      {Name: "since_ns", Kind: gauge}, // when counting began: its first child
			parentsForks:      {Name: "forks"},
			parentsThreads:    {Name: "threads"}, // that it started for itself
			parentsExecs:      {Name: "execs"},   // of its children
			parentsExits:      {Name: "exits"},   // children that ended
			parentsRun:        {Name: "run_ns"},  // CPU time of children that ended within 2 s of their birth
			parentsLived:      {Name: "lived_ns"},
			parentsComm:       {Name: "comm", Kind: text},
			parentsPPID:       {Name: "ppid", Kind: gauge},
			parentsParentComm: {Name: "parent_comm", Kind: text},
			parentsExec:       {Name: "exec", Kind: text}, // what a child ran last
		},
	}
}

func (c *parents) Open(h freezeframe.Host) error {
	if c.life == nil {
		return fmt.Errorf("parents: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	c.take = c.row // made once: a method value allocates
	return nil
}

func (c *parents) Close() error { return nil }

func (c *parents) Collect(t *freezeframe.Table) error {
	c.table = t
	err := c.life.Parents(c.take)
	c.table = nil
	return err
}

func (c *parents) row(pid uint32, p *bpf.Parent) {
	row := c.table.Row(freezeframe.TaskKey(int(pid), ticks(p.Start)), parentsWidth)
	row[parentsPID] = uint64(pid)
	row[parentsSince] = p.Since
	row[parentsForks] = p.Forks
	row[parentsThreads] = p.Clones
	row[parentsExecs] = p.Execs
	row[parentsExits] = p.Exits
	row[parentsRun] = p.RanNS
	row[parentsLived] = p.LivedNS
	row[parentsComm] = c.texts.Intern(p.Comm())
	row[parentsPPID] = uint64(p.PPID)
	row[parentsParentComm] = c.texts.Intern(p.ParentComm())
	row[parentsExec] = c.texts.Intern(p.Exec())
}
