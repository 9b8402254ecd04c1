package recorder

import (
	"fmt"
	"os"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// waiting is what a lane's thread was seen waiting in.
type waiting struct {
	wchan, stack, syscall string
}

// noteLate sets aside, on the lane's thread, that a tick began late. When the
// inspector does not get to run, the oldest 64 are kept: the beginning tells
// more than the end.
func (l *lane) noteLate(due, ran freezeframe.Instant) {
	tail := l.lateTail.Load()
	if tail-l.lateHead.Load() >= uint32(len(l.late)) {
		return
	}
	source := int32(-1)
	for i, r := range l.readers {
		if r.took > Tick && (source < 0 || r.took > l.readers[source].took) {
			source = int32(i)
		}
		r.took = 0
	}
	l.late[tail%uint32(len(l.late))] = lateTick{due, ran, source, uint64(ran.Sub(due) / Tick)}
	l.lateTail.Store(tail + 1)
	l.sampler.poke()
}

// watch has a lane looked at that is late, once. It is called on another
// lane's thread.
func (s *Sampler) watch(l *lane) {
	if kernel.Now().Sub(freezeframe.Instant(l.expected.Load())) > stuckAfter && l.tid.Load() != 0 && l.reported.CompareAndSwap(false, true) {
		s.poke()
	}
}

// poke wakes the inspector without waiting for it.
func (s *Sampler) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// inspect is the goroutine that looks at late lanes and makes events of what
// they set aside, so that the lanes neither allocate nor lock.
func (s *Sampler) inspect() {
	for {
		select {
		case <-s.done:
			return
		case <-s.wake:
		}
		for i := range s.lanes {
			if l := &s.lanes[i]; l.reported.Load() && l.seen.Load() == nil {
				s.look(l)
			}
		}
		s.drainLate()
	}
}

// look records what a late lane waits in now.
func (s *Sampler) look(l *lane) {
	w := look(int(l.tid.Load()))
	due := freezeframe.Instant(l.expected.Load())
	now := kernel.Now()
	late := now.Sub(due)
	if late <= stuckAfter {
		return // it has gone on meanwhile, and will say itself that it was late
	}
	l.seen.Store(w)
	source := l.sourceName(l.current.Load())
	text := fmt.Sprintf("the %s lane is late by %d ms", l.name, late.Milliseconds())
	if source != "" {
		text = fmt.Sprintf("the %s lane has been reading %s for %d ms", l.name, source, late.Milliseconds())
	}
	s.ring.AddEvent(missedEvent(l, due, 0, source, late, text, w))
}

// drainLate makes events of the late ticks that the lanes set aside. It may be
// called by several goroutines.
func (s *Sampler) drainLate() {
	s.draining.Lock()
	defer s.draining.Unlock()
	for i := range s.lanes {
		l := &s.lanes[i]
		for head := l.lateHead.Load(); head != l.lateTail.Load(); head++ {
			t := l.late[head%uint32(len(l.late))]
			l.lateHead.Store(head + 1)
			source := l.sourceName(t.source)
			late := t.ran.Sub(t.due)
			text := fmt.Sprintf("the %s lane ran %d ms late", l.name, late.Milliseconds())
			if source != "" {
				text += ": reading " + source + " took that long"
			}
			s.ring.AddEvent(missedEvent(l, t.due, t.ran, source, late, text, l.seen.Swap(nil)))
		}
	}
}

func (l *lane) sourceName(reader int32) string {
	if reader < 0 || int(reader) >= len(l.readers) {
		return ""
	}
	return l.readers[reader].name
}

func missedEvent(l *lane, due, ran freezeframe.Instant, source string, late time.Duration, text string, w *waiting) freezeframe.Event {
	e := freezeframe.Event{
		Kind: freezeframe.EventMissed, At: due, End: ran, PID: os.Getpid(), Text: text,
		Attrs: []freezeframe.Attr{
			{Name: "source", Value: source},
			{Name: "lane", Value: l.name.String()},
			{Name: "late_us", Value: fmt.Sprint(late.Microseconds())},
		},
	}
	if w != nil {
		e.Attrs = append(e.Attrs,
			freezeframe.Attr{Name: "wchan", Value: w.wchan},
			freezeframe.Attr{Name: "stack", Value: w.stack},
			freezeframe.Attr{Name: "syscall", Value: w.syscall})
	}
	return e
}

// look reads what one of our own threads waits in; what may not be read stays
// empty.
func look(tid int) *waiting {
	dir := fmt.Sprintf("/proc/self/task/%d/", tid)
	w := new(waiting)
	if b, err := os.ReadFile(dir + "wchan"); err == nil && string(b) != "0" {
		w.wchan = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile(dir + "syscall"); err == nil {
		w.syscall, _, _ = strings.Cut(strings.TrimSpace(string(b)), " ")
	}
	if b, err := os.ReadFile(dir + "stack"); err == nil {
		w.stack = frames(string(b))
	}
	return w
}

// frames turns the lines of a kernel stack, "[<0>] pipe_read+0x1b/0x2c0", into
// "pipe_read<-vfs_read", the innermost first.
func frames(text string) string {
	var names []string
	for line := range strings.Lines(text) {
		name := strings.TrimSpace(line)
		if _, after, ok := strings.Cut(name, "] "); ok {
			name = after
		}
		name, _, _ = strings.Cut(name, "+")
		if name != "" && len(names) < 12 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "<-")
}
