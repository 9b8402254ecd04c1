package probes

import (
	"time"

	"freezeframe"

	"golang.org/x/sys/unix"
)

// EventSuspended is a time in which the whole machine slept (suspend to RAM or
// disk): attribute suspended_ns. CLOCK_MONOTONIC stands still meanwhile, so no
// probe is late for it.
const EventSuspended = "suspended"

// Options is what the probes are made from. The zero value is usable.
type Options struct {
	// FsyncSkip lists mount points on which nothing may be written.
	FsyncSkip []string
	// FsyncDirs lists directories for what is written, each for its filesystem; on
	// others it is in the root.
	FsyncDirs []string
	// NetworkMounts allows the fsync probe on network and FUSE filesystems.
	NetworkMounts bool
	// HTTP and TCP list URLs and host:port addresses that are asked actively.
	HTTP, TCP []string
	// Events receives what happened at a moment; it must not block. May be nil.
	Events func(freezeframe.Event)
	// Focus is told when something begins to look late. May be nil.
	Focus *freezeframe.Focus
	// Texts returns the string behind an id of a Text column. May be nil.
	Texts func(id uint64) string
	// OnlyTCP says that BPF, where it tells of requests, does not tell of those at
	// Unix sockets.
	OnlyTCP bool
}

// All returns every probe, not yet running. Those that watch readings
// (services, requests, stuck, limits) also have Observes and Observe, to be called on
// the thread that took the reading.
func All(o Options) []freezeframe.Probe {
	h := newHub(o)
	services := newServices(h)
	all := []freezeframe.Probe{
		&heartbeat{hub: h},
		&heartbeat{hub: h, realtime: true},
		&fsync{hub: h},
		&memory{hub: h},
		&fork{hub: h},
		&loopback{hub: h},
		services,
		newRequests(h, services.owners),
		newStuck(h),
		newLimits(h),
		&kernelLog{hub: h, owners: services.owners},
	}
	return append(all, Asking(all, o)...)
}

// Asking returns the probes that ask the addresses of o, for a set of probes
// that All has returned.
func Asking(all []freezeframe.Probe, o Options) []freezeframe.Probe {
	var out []freezeframe.Probe
	for _, p := range all {
		s, ok := p.(*services)
		if !ok {
			continue
		}
		for _, target := range o.HTTP {
			out = append(out, &active{hub: s.hub, owners: s.owners, target: target, http: true})
		}
		for _, target := range o.TCP {
			out = append(out, &active{hub: s.hub, owners: s.owners, target: target})
		}
	}
	return out
}

// Asks tells whether a probe asks an address.
func Asks(p freezeframe.Probe) bool { _, ok := p.(*active); return ok }

// suspectAt is the lateness at which a probe asks for the full sampling rate,
// well before anything opens an incident; suspectFor is for how long: until it
// would have opened one. What lasts is suspected again and again.
const (
	suspectAt  = 40 * time.Millisecond
	suspectFor = 1500 * time.Millisecond
)

func (o *Options) event(e freezeframe.Event) {
	if o.Events != nil {
		o.Events(e)
	}
}

func (o *Options) suspect(now freezeframe.Instant) {
	if o.Focus != nil {
		o.Focus.Suspect(now.Add(suspectFor))
	}
}

func (o *Options) text(id uint64) string {
	if o.Texts == nil || id == 0 {
		return ""
	}
	return o.Texts(id)
}

// refused is the event for work that the kernel refused at once.
func refused(at freezeframe.Instant, probe, target, err string) freezeframe.Event {
	return freezeframe.Event{
		Kind: freezeframe.EventRefused,
		At:   at,
		Text: probe + " " + target + ": " + err,
		Attrs: []freezeframe.Attr{
			{Name: "probe", Value: probe},
			{Name: "target", Value: target},
			{Name: "errno", Value: err},
		},
	}
}

// errnoName returns ENOSPC for 28.
func errnoName(e unix.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return e.Error()
}
