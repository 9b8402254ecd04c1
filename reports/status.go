package reports

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"freezeframe"
)

// StatusSchema is the schema of the document of `status --json`.
const StatusSchema = "freezeframe.status/v1"

// Status says what the daemon is doing. Where none runs, only Running (false)
// and Why are set.
type Status struct {
	Schema  string    `json:"schema"`
	Running bool      `json:"running"`
	Why     string    `json:"why,omitempty"` // no daemon answers
	Version string    `json:"version,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Config is the file that was read, "" for none. ConfigErr is why the
	// last reload kept the configuration before it.
	Config    string `json:"config,omitempty"`
	ConfigErr string `json:"config_error,omitempty"`
	// Without is what the daemon asked for and did not get (real-time
	// priority, locked memory), each with its reason.
	Without []string `json:"without"`
	// Coverage is what is watched, what is not seen, and what recording costs.
	Coverage freezeframe.Coverage `json:"coverage"`
	// Stalled is what is going on now; nil: nothing is.
	Stalled *StalledNow    `json:"stalled,omitempty"`
	Box     BoxStatus      `json:"black_box"`
	Reports ReportsStatus  `json:"reports"`
	Control *ControlStatus `json:"control,omitempty"`
	// Incidents are the last few, the newest first.
	Incidents []Incident `json:"incidents"`
}

// StalledNow is a stall that is not over.
type StalledNow struct {
	Since time.Time `json:"since"`
	What  string    `json:"what"` // who waits for what
}

// BoxStatus is the black box on disk.
type BoxStatus struct {
	Dir      string `json:"dir,omitempty"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes"`
	Segments int    `json:"segments"`
	// Oldest and Newest are the first and the last reading on disk; zero
	// while there is none.
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	LagMs  float64   `json:"lag_ms"`          // since what was recorded last reached the disk
	Gaps   uint64    `json:"gaps"`            // times in which readings were lost before they could be written
	Err    string    `json:"error,omitempty"` // why nothing is written now
}

// ReportsStatus is the archive of reports.
type ReportsStatus struct {
	Dir      string    `json:"dir,omitempty"`
	Count    int       `json:"count"`
	Bytes    int64     `json:"bytes"`
	MaxBytes int64     `json:"max_bytes"`
	Oldest   time.Time `json:"oldest,omitzero"`
	Err      string    `json:"error,omitempty"`
}

// ControlStatus is what the control socket has been asked since the daemon
// started. The server fills it in.
type ControlStatus struct {
	Connections int64  `json:"connections"` // open now
	Answered    uint64 `json:"answered"`
	Refused     uint64 `json:"refused"` // neither root nor in the group
	Busy        uint64 `json:"busy"`    // turned away because others were being answered
	Broken      uint64 `json:"broken"`  // sent garbage, were too slow, or went away
}

// Normalize makes the document whole and its strings clean.
func (s *Status) Normalize() {
	s.Schema = StatusSchema
	cleanAll(s)
}

// StatusText writes a status at the moment now, for a person.
func StatusText(w io.Writer, s Status, now time.Time, o TextOptions) error {
	s.Normalize()
	p := newPrinter(o)
	if !s.Running {
		p.head(red, sentence(upper(cmp.Or(s.Why, "no freezeframe daemon is running"))))
		_, err := w.Write(p.b.Bytes())
		return err
	}
	p.head(bold, fmt.Sprintf("freezeframe %s has been watching since %s (%s), pid %d.",
		cmp.Or(s.Version, "of an unknown version"), p.clock(s.Started, time.DateTime), duration(now.Sub(s.Started)), s.PID))
	switch {
	case s.Stalled != nil:
		p.head(red, fmt.Sprintf("Stalled now, since %s (%s): %s", p.clock(s.Stalled.Since, time.TimeOnly), duration(now.Sub(s.Stalled.Since)), s.Stalled.What))
	case len(s.Coverage.Probes) > 0:
		p.line("Nothing of what is watched is late now.")
	}
	p.coverage(s.Coverage)
	p.line("")
	p.row("Black box", p.box(&s.Box))
	p.row("Reports", p.kept(&s.Reports))
	p.row("Settings", cmp.Or(s.Config, "no configuration file"))
	if s.ConfigErr != "" {
		p.row("Not taken", "the configuration as it is now, so the one before it stays: "+s.ConfigErr)
	}
	if c := s.Control; c != nil {
		p.row("Asked", fmt.Sprintf("%d times, %d connected now; %d refused, %d told to come again, %d broken off", c.Answered, c.Connections, c.Refused, c.Busy, c.Broken))
	}
	if len(s.Incidents) > 0 {
		p.section("The last incidents")
		p.incidents(s.Incidents)
	}
	if len(s.Without) > 0 {
		p.section("What the daemon does without")
		for _, text := range s.Without {
			p.para("  • ", text)
		}
	}
	p.notSeen(s.Coverage.NotSeen)
	p.recorder(s.Coverage.Recorder)
	_, err := w.Write(p.b.Bytes())
	return err
}

func (p *printer) box(b *BoxStatus) string {
	text := "nothing on disk yet"
	if !b.Oldest.IsZero() {
		text = fmt.Sprintf("%s in %d segments, from %s to %s (%s)", room(b.Bytes, b.MaxBytes), b.Segments,
			p.clock(b.Oldest, time.DateTime), p.clock(b.Newest, time.DateTime), duration(b.Newest.Sub(b.Oldest)))
	}
	if b.Dir != "" {
		text += ", in " + b.Dir
	}
	if b.LagMs > 0 && b.Err == "" {
		text += fmt.Sprintf("; on the disk until %s ago", duration(fromMs(b.LagMs)))
	}
	if b.Gaps > 0 {
		text += fmt.Sprintf("; %d times readings were lost before they could be written", b.Gaps)
	}
	if b.Err != "" {
		text += "; nothing is written now: " + b.Err
	}
	return text
}

func (p *printer) kept(r *ReportsStatus) string {
	text := "none yet"
	if r.Count > 0 {
		text = fmt.Sprintf("%d, %s", r.Count, room(r.Bytes, r.MaxBytes))
	}
	if !r.Oldest.IsZero() {
		text += ", the oldest of " + p.clock(r.Oldest, time.DateTime)
	}
	if r.Dir != "" {
		text += ", in " + r.Dir
	}
	if r.Err != "" {
		text += "; none can be kept now: " + r.Err
	}
	return text
}

func room(used, most int64) string {
	text := mb(used)
	if most > 0 {
		text += " of " + mb(most)
	}
	return text
}

func mb(bytes int64) string {
	if bytes >= 1<<30 {
		return fmt.Sprintf("%.1f GB", float64(bytes)/(1<<30))
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20))
}
