// Package checks holds what a machine with the package installed must do, one
// check per file. They run inside a virtual machine of their own, as root: they
// install, stop, fill and break what a machine has only one of.
package checks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Check is one thing that must hold.
type Check struct {
	Name  string
	About string
	// Needs says why it cannot be tried here; nil: it can.
	Needs func(*Machine) error
	Run   func(*Machine) error
}

// All lists every check, in the order in which they are made: the first installs
// the package, the last takes it away.
func All() []Check {
	return []Check{
		install,
		clean,
		memory,
		security,
		refusal,
		stopped,
		wedged,
		killed,
		reload,
		clockStepped,
		journaldStopped,
		restartLoop,
		paused,
		logFlood,
		outOfMemory,
		dataFrozen,
		dataFull,
		dataReadOnly,
		dataRemounted,
		dataErrors,
		dataAborted,
		upgrade,
		purge,
	}
}

// Machine is the machine that the checks run in, and what they say of it.
type Machine struct {
	Deb, Next string // the package, and a newer one; "" when there is none
	Slow      int    // by how much longer than on a real machine things may take
	notes     []string
	reports   map[string]Report // that were fetched: one that is kept does not change
}

// Service is the unit that the package brings.
const Service = "freezeframe.service"

// Note adds a figure or an observation to the check's line.
func (m *Machine) Note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

// TakeNotes returns what was noted since it was last called.
func (m *Machine) TakeNotes() string {
	defer func() { m.notes = nil }()
	return strings.Join(m.notes, "; ")
}

// Sh runs a command line and returns what it printed.
func (m *Machine) Sh(format string, args ...any) (string, error) {
	line := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(context.Background(), m.Long(60*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.WaitDelay = m.Long(10 * time.Second) // what it started may hold its output open
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", line, err, tail(text))
	}
	return text, nil
}

// Ask runs a verb that prints a document, and reads that: what it has to say on
// standard error is in the error, and no part of it.
func (m *Machine) Ask(into any, line string) error {
	ctx, cancel := context.WithTimeout(context.Background(), m.Long(60*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	if e := json.Unmarshal(text, into); e != nil {
		err = errors.Join(err, fmt.Errorf("read the document: %w: %s", e, tail(string(text))))
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, tail(said.String()))
	}
	return nil
}

// All runs command lines until one fails.
func (m *Machine) All(lines ...string) error {
	for _, line := range lines {
		if _, err := m.Sh("%s", line); err != nil {
			return err
		}
	}
	return nil
}

// Each runs all command lines, whatever becomes of those before.
func (m *Machine) Each(lines ...string) (err error) {
	for _, line := range lines {
		_, e := m.Sh("%s", line)
		err = errors.Join(err, e)
	}
	return err
}

// Long is a time that a real machine would need, as this one does.
func (m *Machine) Long(d time.Duration) time.Duration { return d * time.Duration(max(m.Slow, 1)) }

// Until waits until what is true, for as long as a real machine may take; the
// error of the last try says what is not.
func (m *Machine) Until(d time.Duration, what func() error) error {
	end := time.Now().Add(m.Long(d))
	for {
		err := what()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %w", m.Long(d), err)
		}
		time.Sleep(500 * time.Millisecond) // asking is work, too
	}
}

// Property is one of a unit's (systemctl show).
func (m *Machine) Property(unit, name string) (string, error) {
	return m.Sh("systemctl show --property=%s --value %s", name, unit)
}

// Number is a property that is one.
func (m *Machine) Number(unit, name string) (int, error) {
	text, err := m.Property(unit, name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// Active says why the service is not active.
func (m *Machine) Active() error {
	state, err := m.Property(Service, "ActiveState")
	if err == nil && state != "active" {
		err = fmt.Errorf("%s is %s", Service, state)
	}
	return err
}

// Status is what freezeframe status --json says, as far as the checks read it.
type Status struct {
	Running  bool   `json:"running"`
	Why      string `json:"why"`
	PID      int    `json:"pid"`
	Err      string `json:"config_error"`
	Coverage struct {
		Recorder struct {
			Samples uint64 `json:"samples"`
		} `json:"recorder"`
	} `json:"coverage"`
	Box struct {
		Oldest time.Time `json:"oldest"`
		Newest time.Time `json:"newest"`
		LagMs  float64   `json:"lag_ms"`
		Gaps   uint64    `json:"gaps"`
		Err    string    `json:"error"`
	} `json:"black_box"`
	Incidents []Incident `json:"incidents"`
}

// Incident is a report in a list.
type Incident struct {
	ID      string    `json:"id"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	Cause   string    `json:"cause"`
	Culprit string    `json:"culprit"`
	Summary string    `json:"summary"`
}

// Status asks the daemon.
func (m *Machine) Status() (s Status, err error) {
	err = m.Ask(&s, "freezeframe status --json")
	if err == nil && !s.Running {
		err = fmt.Errorf("no daemon answers: %s", s.Why)
	}
	return s, err
}

// Listing returns the newest reports.
func (m *Machine) Listing() ([]Incident, error) {
	var l struct {
		Incidents []Incident `json:"incidents"`
	}
	err := m.Ask(&l, "freezeframe list --json")
	return l.Incidents, err
}

// Report is what the checks read of a report.
type Report struct {
	ID    string `json:"id"`
	Stall struct {
		Start    time.Time `json:"start"`
		End      time.Time `json:"end"`
		Symptoms []struct {
			Probe string    `json:"probe"`
			End   time.Time `json:"end"`
		} `json:"symptoms"`
	} `json:"stall"`
}

// UncleanEnd is when the run ended, of the report of an end that nobody asked
// for. A stall that it tells of as well may have been over before.
func (r Report) UncleanEnd() (at time.Time, ok bool) {
	for _, s := range r.Stall.Symptoms {
		if s.Probe == "unclean_end" {
			return s.End, true
		}
	}
	return time.Time{}, false
}

// Report fetches one.
func (m *Machine) Report(id string) (r Report, err error) {
	if r, ok := m.reports[id]; ok {
		return r, nil
	}
	if err := m.Ask(&r, "freezeframe show --json "+id); err != nil {
		return r, err
	}
	if m.reports == nil {
		m.reports = map[string]Report{}
	}
	m.reports[id] = r
	return r, nil
}

// UncleanEnds returns the reports of ends that nobody asked for, which began to
// be listed after so many were known.
func (m *Machine) UncleanEnds() (ends []Report, err error) {
	all, err := m.Listing()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		r, err := m.Report(i.ID)
		if err != nil {
			return nil, err
		}
		if _, ok := r.UncleanEnd(); ok {
			ends = append(ends, r)
		}
	}
	return ends, nil
}

// lag is how far behind what was recorded the disk is.
func (s *Status) lag() time.Duration { return time.Duration(s.Box.LagMs * float64(time.Millisecond)) }

// onDisk says why readings that are newer than those of a status so long ago
// have not reached the disk. The times of readings would not do: the wall clock
// may have been set back meanwhile.
func (s *Status) onDisk(before Status, ago time.Duration) error {
	switch {
	case s.PID == before.PID && s.Coverage.Recorder.Samples <= before.Coverage.Recorder.Samples:
		return fmt.Errorf("no reading was made in %v: there are %d still", ago.Round(time.Second), s.Coverage.Recorder.Samples)
	case s.Box.Err != "":
		return fmt.Errorf("nothing is written: %s", s.Box.Err)
	case s.lag() >= ago:
		return fmt.Errorf("what was recorded is on the disk up to %v ago, asked since %v", s.lag().Round(time.Millisecond), ago.Round(time.Millisecond))
	case s.Box.Newest.IsZero():
		return errors.New("no reading is on the disk")
	}
	return nil
}

// writesWithin is how long readings may take to the disk. After failures in a
// row it is tried again once a minute.
const writesWithin = 90 * time.Second

// Samples waits until readings reach the disk that were not there before.
func (m *Machine) Samples() error {
	var before Status
	if err := m.Until(20*time.Second, func() (err error) { before, err = m.Status(); return err }); err != nil {
		return err
	}
	from := time.Now()
	return m.Until(writesWithin, func() error {
		s, err := m.Status()
		if err == nil {
			err = s.onDisk(before, time.Since(from))
		}
		return err
	})
}

// Restarts is how often systemd started the service again by itself.
func (m *Machine) Restarts() (int, error) { return m.Number(Service, "NRestarts") }

// lost says what a status shows to be gone, or to have been left out, since an
// earlier one of the same process.
func (s *Status) lost(before Status) error {
	switch {
	case s.PID != before.PID:
		return fmt.Errorf("process %d was replaced by %d", before.PID, s.PID)
	case s.Box.Gaps > before.Box.Gaps:
		return fmt.Errorf("%d times what was recorded did not reach the disk before it was overwritten", s.Box.Gaps-before.Box.Gaps)
	case !before.Box.Oldest.IsZero() && s.Box.Oldest.After(before.Box.Oldest):
		return fmt.Errorf("the oldest reading is of %s, before it was of %s", s.Box.Oldest, before.Box.Oldest)
	}
	return nil
}

// Unshaken makes something happen, lets it last, and wants the same process of
// the service to be there after it: answering and sampling meanwhile, writing
// afterwards, with all that it had before. during looks at the status when that
// has lasted; nil: it is enough that there is one.
func (m *Machine) Unshaken(begin []string, last time.Duration, during func(Status) error, end []string) error {
	before, err := m.Status()
	if err != nil {
		return err
	}
	err = m.All(begin...)
	if err == nil {
		err = m.endure(last, during)
	}
	if err = errors.Join(err, m.All(end...)); err != nil {
		return err
	}
	if err := m.Samples(); err != nil {
		return err
	}
	after, err := m.Status()
	if err == nil {
		err = after.lost(before)
	}
	if err != nil {
		log, _ := m.Sh("journalctl --no-pager -q -n 12 -o cat -u %s", Service)
		err = fmt.Errorf("%w:\n%s", err, log)
	}
	return err
}

// endure waits, and wants the service to have made readings all the while.
func (m *Machine) endure(last time.Duration, during func(Status) error) error {
	first, err := m.Status()
	if err != nil {
		return err
	}
	time.Sleep(last)
	s, err := m.Status()
	if err != nil {
		return err
	}
	if made := s.Coverage.Recorder.Samples - first.Coverage.Recorder.Samples; s.PID == first.PID && made < readingsLeast*uint64(last/time.Second) {
		return fmt.Errorf("%d readings were made in %v", made, last)
	}
	if during != nil {
		return during(s)
	}
	return nil
}

// readingsLeast is how many readings a second are made at least: each lane
// several, of several sources.
const readingsLeast = 5

// packaged needs the unit, daemon the verb.
func packaged(m *Machine) error {
	if _, err := os.Stat("/usr/lib/systemd/system/" + Service); err != nil {
		return errors.New("the package has no " + Service)
	}
	return nil
}

func given(m *Machine) error {
	if m.Deb == "" {
		return errors.New("no package was given (-deb)")
	}
	return nil
}

// tail is the end of a text, on one line.
func tail(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 400 {
		text = "…" + text[len(text)-400:]
	}
	return text
}
