package collectors

import (
	"fmt"
	"hash/maphash"
	"strconv"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

const (
	failuresPID = iota
	failuresUID
	failuresComm
	failuresCall
	failuresError
	failuresCount
	failuresFirst
	failuresLast
	failuresWidth
)

// failures reads what BPF counts of system calls that failed with an error that
// tells of a limit. A row is one process, call and error, since the programs
// were attached last: they are only while a stall is open or suspected. There
// are no rows while nothing is wrong.
type failures struct {
	programs *bpf.Failures
	host     freezeframe.Host
	calls    []uint64
	errors   []uint64
	seed     maphash.Seed
	switches *attacher
	stalled  bool

	table *freezeframe.Table // of the reading that goes on
	take  func(*bpf.Failing, *bpf.Failed)
}

func (c *failures) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "failures", From: "BPF: sys_exit, while a stall is open", Key: "record",
		Every: 500 * time.Millisecond, Stalled: 250 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			failuresPID:   {Name: "pid", Kind: gauge},
			failuresUID:   {Name: "uid", Kind: gauge}, // the real one
			failuresComm:  {Name: "comm", Kind: text}, // of the process
			failuresCall:  {Name: "syscall", Kind: text},
			failuresError: {Name: "errno", Kind: text}, // EMFILE
			failuresCount: {Name: "failures"},
			failuresFirst: {Name: "first_ns", Kind: gauge},
			failuresLast:  {Name: "last_ns", Kind: gauge},
		},
	}
}

func (c *failures) Open(h freezeframe.Host) error {
	if c.programs == nil {
		return fmt.Errorf("failures: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	switches, err := attach(c.programs.Run)
	if err != nil {
		return fmt.Errorf("failures: make a bell: %w", err)
	}
	c.host, c.switches, c.stalled, c.seed = h, switches, false, maphash.MakeSeed()
	c.calls, c.errors = c.calls[:0], c.errors[:0]
	for nr, name := range bpf.FailureCalls() {
		if name == "" {
			name = "system call " + strconv.Itoa(nr)
		}
		c.calls = append(c.calls, h.Texts.Intern([]byte(name)))
	}
	for _, name := range bpf.FailureErrors() {
		c.errors = append(c.errors, h.Texts.Intern([]byte(name)))
	}
	c.take = c.row // made once: a method value allocates
	return nil
}

func (c *failures) Close() error {
	if c.switches != nil {
		c.switches.stop()
		c.switches = nil
	}
	return nil
}

func (c *failures) Collect(t *freezeframe.Table) error {
	was := c.stalled
	if c.stalled = c.host.Focus.Stalled(at(t)); c.stalled != was {
		c.switches.want(c.stalled)
	}
	if !c.stalled && !was { // once more after the end, for what came last
		return nil
	}
	c.table = t
	err := c.programs.Each(c.take)
	c.table = nil
	return err
}

func (c *failures) row(k *bpf.Failing, f *bpf.Failed) {
	row := c.table.Row(freezeframe.Key(maphash.Comparable(c.seed, *k)), failuresWidth)
	row[failuresPID], row[failuresUID] = uint64(k.PID), uint64(f.UID)
	row[failuresComm] = c.host.Texts.Intern(f.Comm())
	row[failuresCall] = c.calls[int(k.Call)%len(c.calls)]
	row[failuresError] = c.errors[int(k.Error)%len(c.errors)]
	row[failuresCount] = f.Count
	row[failuresFirst], row[failuresLast] = f.First, f.Last
}

// attacher attaches and detaches programs on a goroutine of its own, which a
// lane only rings for: that takes milliseconds and locks of the kernel.
type attacher struct {
	bell    *kernel.Bell
	on      atomic.Bool
	stopped atomic.Bool
}

// attach starts one; run says itself what fails.
func attach(run func(on bool) error) (*attacher, error) {
	bell, err := kernel.NewBell()
	if err != nil {
		return nil, err
	}
	a := &attacher{bell: bell}
	go func() {
		defer bell.Close()
		for bell.Wait() == nil {
			if a.stopped.Load() {
				break
			}
			_ = run(a.on.Load())
		}
		_ = run(false)
	}()
	return a, nil
}

// want has the programs attached or detached soon.
func (a *attacher) want(on bool) {
	a.on.Store(on)
	a.bell.Ring(1)
}

// stop ends the goroutine, with nothing attached.
func (a *attacher) stop() {
	a.stopped.Store(true)
	a.bell.Ring(1)
}
