package rules

import (
	"cmp"
	"fmt"
	"slices"
	"syscall"
	"time"

	"freezeframe"
)

// A deed is what one process did to another, as the signals source says.
type deed struct {
	at         freezeframe.Instant
	signal     syscall.Signal
	pid        int
	comm       string
	from       freezeframe.Party
	fromParent string // the name of the sender's parent
	fromKernel bool   // a thread of the kernel did it
	cgroup     string
}

// deeds returns what was done in a span, oldest first: kind is signal, oom,
// freeze or thaw.
func deeds(w freezeframe.Window, s freezeframe.Span, kind string) []deed {
	// A row is written at the reading after the deed.
	series := w.Between("signals", freezeframe.Span{Start: s.Start, End: s.End.Add(time.Second)})
	var out []deed
	columns := []string{"at_ns", "kind", "signal", "pid", "comm", "from_pid", "from_tid", "from_comm", "from_parent_comm", "from_kernel", "cgroup"}
	series.Each(columns, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		at := freezeframe.Instant(v[0])
		if !s.Contains(at) || w.Text(v[1]) != kind {
			return
		}
		out = append(out, deed{
			at: at, signal: syscall.Signal(v[2]), pid: int(v[3]), comm: w.Text(v[4]),
			from: freezeframe.Party{PID: int(v[5]), TID: int(v[6]), Comm: w.Text(v[7])}, fromParent: w.Text(v[8]), fromKernel: v[9] != 0, cgroup: w.Text(v[10]),
		})
	})
	slices.SortStableFunc(out, func(a, b deed) int { return cmp.Compare(a.at, b.at) })
	return out
}

// stopper is the last stop signal to a process before a moment at which it was
// stopped, unless it was let go on between the two.
func stopper(w freezeframe.Window, pid int, stopped freezeframe.Instant) *deed {
	var last *deed
	for _, d := range deeds(w, freezeframe.Span{Start: w.Span().Start, End: stopped.Add(stateSlack)}, "signal") {
		if d.pid != pid {
			continue
		}
		switch d.signal {
		case syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			last = &d
		case syscall.SIGCONT, syscall.SIGKILL:
			if d.at < stopped {
				last = nil
			}
		}
	}
	return last
}

// stateSlack is by how much a state that is sampled may be believed too early.
const stateSlack = 100 * time.Millisecond

// sender says who did it, with whoever started that one.
func (d *deed) sender() string {
	name := named(d.from.Comm, d.from.PID)
	if d.fromParent != "" && d.fromParent != d.from.Comm {
		name += ", started by " + d.fromParent
	}
	return name
}

// A breeder is a process with what it has started over a span.
type breeder struct {
	key                 freezeframe.Key
	pid, ppid           int
	comm, parent, exec  string
	since               freezeframe.Instant
	first, last         freezeframe.Instant
	forks, exits, ended growth // ended: ns of CPU time
	lived               growth
	alike               int // how many of its name and parent share in it, itself included
}

// breeders returns who started processes over a span, by what their ended
// children used, then by how many they started.
func breeders(w freezeframe.Window, s freezeframe.Span) []*breeder {
	series := w.Between("parents", s)
	byKey := map[freezeframe.Key]*breeder{}
	var all []*breeder
	columns := []string{"pid", "ppid", "comm", "parent_comm", "exec", "since_ns", "forks", "exits", "run_ns", "lived_ns"}
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		b := byKey[key]
		if b == nil {
			b = &breeder{key: key, pid: int(v[0]), since: freezeframe.Instant(v[5]), first: at, alike: 1}
			byKey[key] = b
			all = append(all, b)
			// Its first child came within the span: then all are of the span.
			if b.since > s.Start && b.since < at {
				for _, g := range []*growth{&b.forks, &b.exits, &b.ended, &b.lived} {
					g.add(b.since, 0)
				}
			}
		}
		b.ppid, b.last = int(v[1]), at
		setText(w, &b.comm, v[2])
		setText(w, &b.parent, v[3])
		setText(w, &b.exec, v[4])
		b.forks.add(at, v[6])
		b.exits.add(at, v[7])
		b.ended.add(at, v[8])
		b.lived.add(at, v[9])
	})
	// Parents alike (24 xargs that start one program) count as one.
	type kind struct{ comm, exec string }
	first := map[kind]*breeder{}
	var out []*breeder
	order := func(a, b *breeder) int {
		return cmp.Or(cmp.Compare(b.ended.sum, a.ended.sum), cmp.Compare(b.forks.sum, a.forks.sum), cmp.Compare(a.pid, b.pid))
	}
	slices.SortStableFunc(all, order)
	for _, b := range all {
		if b.forks.sum+b.exits.sum == 0 || b.pid <= kernelThreads {
			continue
		}
		if have := first[kind{b.comm, b.exec}]; have != nil {
			if have.ppid != b.ppid {
				have.ppid = 0 // of several
			}
			have.forks.sum += b.forks.sum
			have.exits.sum += b.exits.sum
			have.ended.sum += b.ended.sum
			have.lived.sum += b.lived.sum
			have.alike++
			continue
		}
		first[kind{b.comm, b.exec}] = b
		out = append(out, b)
	}
	slices.SortStableFunc(out, order)
	// Parents that are as short-lived as their children (a shell for each line)
	// are their own parent's doing.
	if len(out) > 0 {
		if b := out[0]; b.alike >= manyAlike && b.forks.sum <= fewChildren*uint64(b.alike) {
			for i, up := range out[1:] {
				if up.pid != b.ppid {
					continue
				}
				up.ended.sum += b.ended.sum
				up.forks.sum += b.forks.sum
				out = append(append([]*breeder{up}, out[:i+1]...), out[i+2:]...)
				break
			}
		}
	}
	return out
}

// manyAlike parents of one name and parent, with fewChildren each, are a swarm
// themselves.
const (
	manyAlike   = 8
	fewChildren = 4
)

func (b *breeder) String() string {
	if b.alike > 1 {
		return fmt.Sprintf("%s and %d like it", named(b.comm, b.pid), b.alike-1)
	}
	return named(b.comm, b.pid)
}

func (b *breeder) culprit() freezeframe.Culprit {
	c := freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: b.pid, Comm: b.comm}
	if b.alike > 1 {
		c.Count = b.alike
	}
	return c
}

// life is how long its children lived on average.
func (b *breeder) life() time.Duration {
	if b.exits.sum == 0 {
		return 0
	}
	return time.Duration(b.lived.sum / b.exits.sum)
}

// ran is the CPU time that its children used on average.
func (b *breeder) ran() time.Duration {
	if b.exits.sum == 0 {
		return 0
	}
	return time.Duration(b.ended.sum / b.exits.sum)
}
