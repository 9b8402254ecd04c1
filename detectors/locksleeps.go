package detectors

import (
	"cmp"
	"fmt"
	"slices"

	"freezeframe"
)

// A lockSleep is one wait of a thread for a lock of its program whose owner was
// seen (the source futexes). It may have gone on after it was last seen.
type lockSleep struct {
	freezeframe.Span
	lock     string
	address  uint64
	switches uint64
	owners   []ownerSeen
}

// ownerSeen is an owner, and how many looks found it.
type ownerSeen struct {
	freezeframe.Party
	looks int
}

// owner is who had the lock for most of the looks.
func (s *lockSleep) owner() *freezeframe.Party {
	best := 0
	for i := range s.owners {
		if s.owners[i].looks > s.owners[best].looks {
			best = i
		}
	}
	p := s.owners[best].Party
	return &p
}

func (b *book) readFutexes(s freezeframe.Series) {
	columns := []string{"address", "since_ns", "at_ns", "switches", "kind", "owner_pid", "owner_tid", "owner_comm"}
	s.Each(columns, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[5] == 0 || v[6] == 0 {
			return
		}
		at := freezeframe.Instant(v[2])
		list := b.lockSleeps[key]
		i := slices.IndexFunc(list, func(x lockSleep) bool { return x.address == v[0] && x.switches == v[3] })
		if i < 0 {
			start := at
			if since := freezeframe.Instant(v[1]); since != 0 && since < at {
				start = since
			}
			i = len(list)
			list = append(list, lockSleep{Span: freezeframe.Span{Start: start, End: at}, lock: fmt.Sprintf("%s at %#x", b.w.Text(v[4]), v[0]), address: v[0], switches: v[3]})
			b.lockSleeps[key] = list
		}
		x := &list[i]
		x.End = max(x.End, at)
		for j := range x.owners {
			if x.owners[j].TID == int(v[6]) {
				x.owners[j].looks++
				return
			}
		}
		x.owners = append(x.owners, ownerSeen{looks: 1, Party: freezeframe.Party{PID: int(v[5]), TID: int(v[6]), Comm: b.w.Text(v[7]), Why: "owns the " + x.lock}})
	})
	byKey := map[freezeframe.Key]*thread{}
	for _, list := range b.threads {
		for _, th := range list {
			byKey[th.key] = th
		}
	}
	for key, list := range b.lockSleeps {
		if th := byKey[key]; th != nil {
			for i := range list {
				list[i].extend(th.samples)
			}
		}
		slices.SortFunc(list, func(x, y lockSleep) int { return cmp.Compare(x.Start, y.Start) })
	}
}

// extend lets a sleep last from the first sample of its thread to the last
// between which the thread was not put on a CPU.
func (s *lockSleep) extend(samples []sample) {
	i, _ := slices.BinarySearchFunc(samples, s.End, func(x sample, at freezeframe.Instant) int { return cmp.Compare(x.at, at) })
	if i > 0 && (i == len(samples) || samples[i].at > s.End) {
		i--
	}
	if i == len(samples) || samples[i].state == 'R' || samples[i].at < s.Start {
		return
	}
	for j := i; j >= 0 && samples[j].state != 'R' && sameSlices(&samples[j], &samples[i]); j-- {
		s.Start = min(s.Start, samples[j].at)
	}
	for j := i; j < len(samples) && samples[j].state != 'R' && sameSlices(&samples[i], &samples[j]); j++ {
		s.End = max(s.End, samples[j].at)
	}
}

// locked says of the waits in futex which lock they were for, and who owned it,
// as far as that is known; waits are cut where it begins or ends.
func (b *book) locked(th *thread, waits []freezeframe.Wait) []freezeframe.Wait {
	sleeps := b.lockSleeps[th.key]
	if len(sleeps) == 0 {
		return waits
	}
	var out []freezeframe.Wait
	for _, w := range waits {
		for i := range sleeps {
			part := sleeps[i].And(w.Span)
			if w.Class != freezeframe.UserLock || part.Length() <= 0 {
				continue
			}
			if part.Start.Sub(w.Start) < sameWait {
				part.Start = w.Start
			}
			if w.End.Sub(part.End) < sameWait {
				part.End = w.End
			}
			if part.Start > w.Start {
				before := w
				before.End, before.Woken = part.Start, nil
				out = append(out, before)
			}
			own := w
			own.Span, own.Lock, own.Holder = part, sleeps[i].lock, sleeps[i].owner()
			w.Start = part.End
			if w.Length() > 0 {
				own.Woken = nil
			}
			out = append(out, own)
		}
		if w.Length() > 0 {
			out = append(out, w)
		}
	}
	return out
}
