package freezeframe

// The kinds of Event.
const (
	// EventKernelLog is a line of /dev/kmsg: Text is the message, attributes
	// level, facility, sequence.
	EventKernelLog = "kernel_log"
	// EventMissed is a reading that ran late or not at all: attributes source,
	// lane, late_us, wchan, stack.
	EventMissed = "missed"
	// EventRefused is work that the kernel refused at once: attributes probe,
	// target, errno (the name: ENOSPC).
	EventRefused = "refused"
	// EventEnds names the processes at the ends of a pipe or socket that a
	// victim waits on: attributes file, readers, writers (comma-separated
	// pids), found while it could still be seen.
	EventEnds = "ends"
	// EventClockStepped is a jump of the wall clock: attribute step_ns.
	EventClockStepped = "clock_stepped"
	// EventStopped is a time in which freezeframe itself was stopped by a
	// signal: what was late of its own then says nothing about the machine.
	EventStopped = "stopped"
	// EventStall is a stall that was noticed and is over, told when its report is
	// made: attributes stall, the pieces of its JSON.
	EventStall = "stall"
	// EventWatching says, now and then, what was looked at: attribute probes, the
	// names of those that ran, with blanks between.
	EventWatching = "watching"
)

// Event is something that happened at a moment (End 0) or over a span.
type Event struct {
	Kind  string
	At    Instant
	End   Instant
	PID   int
	Text  string
	Attrs []Attr
}

// Attr is one named property of an event.
type Attr struct{ Name, Value string }

// Attr returns the named attribute, or "".
func (e *Event) Attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}
