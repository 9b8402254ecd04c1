package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	signalsAt = iota
	signalsKind
	signalsSignal
	signalsCode
	signalsResult
	signalsPID
	signalsTID
	signalsComm
	signalsFromPID
	signalsFromTID
	signalsFromComm
	signalsFromPPID
	signalsFromParentComm
	signalsFromKernel
	signalsCgroup
	signalsLived
	signalsWidth
)

const maxSignalRows = 500 // of one reading; what is beyond stays for the next

// signals reads what BPF tells of one process's deeds on another: signals that
// end, stop or continue, the kernel's choice of whom to end for memory, the
// freezing of cgroups; and how processes ended. One row is one of these.
type signals struct {
	life  *bpf.Life
	texts freezeframe.Texts
	kinds [bpf.Ended + 1]uint64
	next  freezeframe.Key
	table *freezeframe.Table // of the reading that goes on
	take  func(*bpf.Deed)
}

func (c *signals) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "signals", From: "BPF: signal_generate, mark_victim, cgroup_freeze, cgroup_unfreeze, sched_process_exit", Key: "record",
		Every: 500 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: []freezeframe.Column{
			signalsAt:             {Name: "at_ns", Kind: gauge},
			signalsKind:           {Name: "kind", Kind: text}, // signal, oom, freeze, thaw, end
			signalsSignal:         {Name: "signal", Kind: gauge},
			signalsCode:           {Name: "code", Kind: gauge},   // siginfo_t.si_code, sigaction(2); of an end the exit status
			signalsResult:         {Name: "result", Kind: gauge}, // 0 delivered, 1 ignored, 2 pending already; of an end 1 with a core dump
			signalsPID:            {Name: "pid", Kind: gauge},
			signalsTID:            {Name: "tid", Kind: gauge},
			signalsComm:           {Name: "comm", Kind: text},
			signalsFromPID:        {Name: "from_pid", Kind: gauge}, // of an end the parent
			signalsFromTID:        {Name: "from_tid", Kind: gauge},
			signalsFromComm:       {Name: "from_comm", Kind: text},
			signalsFromPPID:       {Name: "from_ppid", Kind: gauge},
			signalsFromParentComm: {Name: "from_parent_comm", Kind: text},
			signalsFromKernel:     {Name: "from_kernel", Kind: gauge}, // 1: a thread of the kernel
			signalsCgroup:         {Name: "cgroup", Kind: text},       // of a freeze or thaw, below its mount; of an end its last part, version 2
			signalsLived:          {Name: "lived_ns", Kind: gauge},    // of what ended, since its birth
		},
	}
}

func (c *signals) Open(h freezeframe.Host) error {
	if c.life == nil {
		return fmt.Errorf("signals: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	c.take = c.row // made once: a method value allocates
	c.kinds[bpf.Signalled] = h.Texts.Intern([]byte("signal"))
	c.kinds[bpf.OOMVictim] = h.Texts.Intern([]byte("oom"))
	c.kinds[bpf.Froze] = h.Texts.Intern([]byte("freeze"))
	c.kinds[bpf.Thawed] = h.Texts.Intern([]byte("thaw"))
	c.kinds[bpf.Ended] = h.Texts.Intern([]byte("end"))
	return nil
}

func (c *signals) Close() error { return nil }

func (c *signals) Collect(t *freezeframe.Table) error {
	c.table = t
	c.life.Deeds(maxSignalRows, c.take)
	c.table = nil
	return nil
}

func (c *signals) row(d *bpf.Deed) {
	row := c.table.Row(c.next, signalsWidth)
	c.next++
	row[signalsAt] = d.At
	if int(d.Kind) < len(c.kinds) {
		row[signalsKind] = c.kinds[d.Kind]
	}
	row[signalsSignal] = uint64(d.Signal)
	row[signalsCode] = uint64(int64(d.Code))
	row[signalsResult] = uint64(d.Result)
	row[signalsPID], row[signalsTID] = uint64(d.PID), uint64(d.TID)
	row[signalsComm] = c.texts.Intern(d.Comm())
	row[signalsFromPID], row[signalsFromTID] = uint64(d.FromPID), uint64(d.FromTID)
	row[signalsFromComm] = c.texts.Intern(d.FromComm())
	row[signalsFromPPID] = uint64(d.FromPPID)
	row[signalsFromParentComm] = c.texts.Intern(d.FromParentComm())
	row[signalsFromKernel] = uint64(d.FromKernel)
	row[signalsCgroup] = c.texts.Intern(d.Cgroup())
	row[signalsLived] = d.LivedNS
}
