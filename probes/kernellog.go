package probes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// kernelLog reads /dev/kmsg from the moment it starts. Every line becomes an
// event; a few kinds of line are symptoms by themselves, reported with the
// kind as Err: a task that hangs, a CPU that is stuck, a process killed for
// memory, a device or filesystem that fails, a server that does not respond, a
// table that is full. What users feel is in the line.
type kernelLog struct {
	hub    *hub
	owners *serviceOwners
	path   string // "" is /dev/kmsg
}

const (
	// kernelLogRate is how many lines a second become events; a flood must not
	// push everything else out of the recording.
	kernelLogRate  = 100
	kernelLogFloor = time.Second // between two reports of a kind
	// goesOn is how long a filesystem that failed may be silent: whoever tries to
	// write makes it fail again, until somebody mends it.
	goesOn      = 5 * time.Minute
	maxFailures = 64
)

func (p *kernelLog) Name() string { return "kernel_log" }

// Run reads until ctx ends. The error says what an unprivileged user needs.
func (p *kernelLog) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	path := p.path
	if path == "" {
		path = "/dev/kmsg"
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("open %s: %w (needs CAP_SYSLOG, or kernel.dmesg_restrict=0 and read permission on the device)", path, err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("open %s: %w: %w", path, err, freezeframe.ErrNotHere)
	case err != nil:
		return fmt.Errorf("open %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if p.path == "" {
		if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
			return fmt.Errorf("go to the end of %s: %w", path, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	lines := kernelLines{hub: p.hub, owners: p.owners, late: late}
	buf := make([]byte, 16<<10) // CONSOLE_EXT_LOG_MAX is 8 KiB
	for {
		n, err := file.Read(buf)
		now := kernel.Now()
		switch {
		case ctx.Err() != nil:
			lines.flush(now)
			return nil
		case errors.Is(err, unix.EPIPE):
			// The kernel overwrote what was not read yet; the sequence of the
			// next line tells how much.
			continue
		case errors.Is(err, unix.EINVAL):
			continue // a record longer than the buffer is passed over
		case err != nil:
			return fmt.Errorf("read %s: %w", path, err)
		}
		if rec, ok := parseKmsg(buf[:n]); ok {
			lines.take(rec, now)
		}
	}
}

// kmsg is one record of /dev/kmsg.
type kmsg struct {
	level, facility uint64
	sequence        uint64
	at              time.Duration // since boot, on the kernel's local clock
	text            string        // without the key=value lines that may follow
}

// parseKmsg reads one record (Documentation/ABI/testing/dev-kmsg):
// "6,1234,567890,-;message" and lines of " KEY=value". The message has bytes
// below 32, above 126 and \ escaped as \xNN; they are turned back.
func parseKmsg(b []byte) (kmsg, bool) {
	head, body, found := bytes.Cut(b, []byte{';'})
	if !found {
		return kmsg{}, false
	}
	s := kernel.Scan(head)
	prefix, ok1 := s.Uint()
	c1 := s.Byte(',')
	sequence, ok2 := s.Uint()
	c2 := s.Byte(',')
	us, ok3 := s.Uint()
	c3 := s.Byte(',')
	if !ok1 || !ok2 || !ok3 || !c1 || !c2 || !c3 || us > uint64(1)<<53 {
		return kmsg{}, false
	}
	line, _, _ := bytes.Cut(body, []byte{'\n'})
	return kmsg{level: prefix & 7, facility: prefix >> 3, sequence: sequence,
		at: time.Duration(us) * time.Microsecond, text: unescapeKmsg(line)}, true
}

func unescapeKmsg(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) && b[i+1] == 'x' {
			if v, err := strconv.ParseUint(string(b[i+2:i+4]), 16, 8); err == nil {
				out = append(out, byte(v))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}

// kernelLines turns records into events and reports.
type kernelLines struct {
	hub    *hub
	owners *serviceOwners // may be nil: then who was killed is not looked at
	late   func(freezeframe.Lateness)

	next       uint64 // the sequence that should follow
	ahead      time.Duration
	second     freezeframe.Instant
	count      int // events in this second
	suppressed int
	lost       uint64
	told       [len(kernelSymptoms)]freezeframe.Instant
	failures   map[string]failing // of filesystems, by kind and device
}

// failing is one that goes on: its first line, and when its last was read.
type failing struct{ since, last freezeframe.Instant }

const (
	oomKill           = "oom kill"
	filesystemError   = "filesystem error"
	remountedReadOnly = "remounted read-only"
	// killedOther is the quality of a kill that took no service: a batch job
	// that is killed keeps nobody waiting.
	killedOther = 0.4
)

// kernelSymptoms are the lines that are symptoms: all parts must occur.
var kernelSymptoms = [...]struct {
	kind    string
	quality float64
	parts   []string
}{
	{"hung task", 0.8, []string{"blocked for more than", "seconds"}},
	{"soft lockup", 0.9, []string{"soft lockup"}},
	{"hard lockup", 0.9, []string{"hard LOCKUP"}},
	{"rcu stall", 0.9, []string{"rcu", "stall"}},
	{"workqueue lockup", 0.8, []string{"workqueue lockup"}},
	{oomKill, 0.9, []string{"Killed process", "total-vm"}},
	{filesystemError, 0.8, []string{"EXT4-fs error"}},
	{filesystemError, 0.8, []string{"XFS", "hutting down filesystem"}},
	{filesystemError, 0.8, []string{"BTRFS", "error"}},
	{remountedReadOnly, 0.9, []string{"emounting filesystem read-only"}},
	{"I/O error", 0.6, []string{"I/O error"}},
	{"nfs server not responding", 0.8, []string{"nfs: server", "not responding"}},
	{"conntrack table full", 0.8, []string{"nf_conntrack: table full", "dropping packet"}}, // from 6.12 on with "in netns N"
	{"neighbour table full", 0.8, []string{"neighbor table overflow"}},
	{"fork rejected", 0.8, []string{"fork rejected by pids controller"}},
	{"transmit timeout", 0.8, []string{"NETDEV WATCHDOG"}},
	{"transmit timeout", 0.8, []string{"transmit queue", "timed out"}},
	{"oops", 0.9, []string{"Oops:"}},
	{"oops", 0.9, []string{"BUG: unable to handle"}},
	{"oops", 0.9, []string{"kernel BUG at"}},
}

// kernelSymptom returns the index of what a line is a symptom of, or -1.
func kernelSymptom(line string) int {
next:
	for i, s := range kernelSymptoms {
		for _, part := range s.parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		return i
	}
	return -1
}

func (k *kernelLines) take(r kmsg, now freezeframe.Instant) {
	if k.next != 0 && r.sequence > k.next {
		k.lost += r.sequence - k.next
	}
	k.next = r.sequence + 1
	at := k.when(r.at, now)
	if now.Sub(k.second) >= time.Second {
		k.flush(now)
		k.second = now
	}

	symptom := -1
	// A line that a program wrote (facility other than kernel) proves nothing.
	if r.facility == 0 {
		symptom = kernelSymptom(r.text)
	}
	if k.count < kernelLogRate || symptom >= 0 && k.count < 2*kernelLogRate {
		k.count++
		k.hub.event(freezeframe.Event{Kind: freezeframe.EventKernelLog, At: at, Text: r.text, Attrs: []freezeframe.Attr{
			{Name: "level", Value: strconv.FormatUint(r.level, 10)},
			{Name: "facility", Value: strconv.FormatUint(r.facility, 10)},
			{Name: "sequence", Value: strconv.FormatUint(r.sequence, 10)},
		}})
	} else {
		k.suppressed++
	}
	if symptom < 0 || now.Sub(k.told[symptom]) < kernelLogFloor {
		return
	}
	k.told[symptom] = now
	k.hub.suspect(now)
	s := kernelSymptoms[symptom]
	l := freezeframe.Lateness{Probe: "kernel_log", Target: s.kind, Began: k.began(s.kind, r.text, at, now), Done: at, Seen: now, Quality: s.quality, Err: s.kind}
	pid, comm := kernelVictim(r.text)
	if pid != 0 {
		l.Victims = []freezeframe.Victim{{PID: pid, Comm: comm}}
	}
	if s.kind == oomKill && pid != 0 && k.owners != nil && !k.owners.serves(pid) {
		l.Quality = killedOther
	}
	k.late(l)
}

// began is when that began of which a line tells: the first line of a filesystem's
// failure, which is told again for as long as somebody tries to write.
func (k *kernelLines) began(kind, text string, at, now freezeframe.Instant) freezeframe.Instant {
	if kind != filesystemError && kind != remountedReadOnly {
		return at
	}
	_, device, _ := strings.Cut(text, "(")
	device, _, _ = strings.Cut(device, ")")
	key := kind + " " + strings.TrimPrefix(device, "device ")
	f := k.failures[key]
	if f.since == 0 || now.Sub(f.last) > goesOn {
		f.since = at
	}
	f.last = now
	if k.failures == nil || len(k.failures) == maxFailures {
		k.failures = map[string]failing{}
	}
	k.failures[key] = f
	return f.since
}

// flush tells how many lines were left out since the last time.
func (k *kernelLines) flush(now freezeframe.Instant) {
	if k.suppressed > 0 || k.lost > 0 {
		k.hub.event(freezeframe.Event{Kind: freezeframe.EventKernelLog, At: now,
			Text: fmt.Sprintf("(%d more lines of the kernel log in this second left out, %d overwritten before they could be read)", k.suppressed, k.lost),
			Attrs: []freezeframe.Attr{
				{Name: "suppressed", Value: strconv.Itoa(k.suppressed)},
				{Name: "lost", Value: strconv.FormatUint(k.lost, 10)},
			}})
	}
	k.count, k.suppressed, k.lost = 0, 0, 0
}

// when maps the kernel's local clock to CLOCK_MONOTONIC. The two run from
// about the same moment but not at the same rate, and a line is never read
// before it is written: the smallest difference seen is the right one. It is
// let go by 100 ppm a line-second so that it can follow.
func (k *kernelLines) when(at time.Duration, now freezeframe.Instant) freezeframe.Instant {
	ahead := time.Duration(now) - at
	if k.next == 0 || k.ahead == 0 {
		k.ahead = ahead
	}
	if since := now.Sub(k.second); k.second != 0 && since > 0 {
		k.ahead += since / 10000
	}
	k.ahead = min(k.ahead, ahead)
	return min(freezeframe.Instant(at+k.ahead), now)
}

// kernelVictim finds who a line is about: "task NAME:PID blocked",
// "Killed process PID (NAME)", "stuck for 22s! [NAME:PID]".
func kernelVictim(line string) (pid int, comm string) {
	if _, rest, ok := strings.Cut(line, "Killed process "); ok {
		digits, rest, _ := strings.Cut(rest, " ")
		comm, _, _ = strings.Cut(strings.TrimPrefix(rest, "("), ")")
		return kernelPID(digits), comm
	}
	var name string
	if _, rest, ok := strings.Cut(line, "task "); ok && strings.Contains(rest, " blocked for") {
		name, _, _ = strings.Cut(rest, " blocked for")
	} else if _, rest, ok := strings.Cut(line, "s! ["); ok {
		name, _, _ = strings.Cut(rest, "]")
	}
	i := strings.LastIndexByte(name, ':')
	if i < 0 {
		return 0, ""
	}
	if pid = kernelPID(name[i+1:]); pid == 0 {
		return 0, ""
	}
	return pid, name[:i]
}

// kernelPID returns 0 for what is no pid.
func kernelPID(digits string) int {
	pid, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || pid < 0 {
		return 0
	}
	return int(pid)
}
