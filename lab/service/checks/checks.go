// Package checks holds what a machine with the package installed must do, one
// check per file. They run inside a virtual machine of their own, as root: they
// install, stop, fill and break what a machine has only one of.
package checks

import (
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
		killed,
		reload,
		clockStepped,
		journaldStopped,
		restartLoop,
		dataFrozen,
		dataFull,
		dataReadOnly,
		dataErrors,
		upgrade,
		purge,
	}
}

// Machine is the machine that the checks run in, and what they say of it.
type Machine struct {
	Deb, Next string // the package, and a newer one; "" when there is none
	Slow      int    // by how much longer than on a real machine things may take
	notes     []string
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

// All runs command lines until one fails.
func (m *Machine) All(lines ...string) error {
	for _, line := range lines {
		if _, err := m.Sh("%s", line); err != nil {
			return err
		}
	}
	return nil
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
		time.Sleep(200 * time.Millisecond)
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
	Running bool   `json:"running"`
	Why     string `json:"why"`
	PID     int    `json:"pid"`
	Err     string `json:"config_error"`
	Box     struct {
		Segments int       `json:"segments"`
		Oldest   time.Time `json:"oldest"`
		Newest   time.Time `json:"newest"`
		LagMs    float64   `json:"lag_ms"`
		Err      string    `json:"error"`
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
	text, err := m.Sh("freezeframe status --json")
	if !strings.HasPrefix(text, "{") {
		return s, errors.Join(err, fmt.Errorf("the status is no document: %s", tail(text)))
	}
	if e := json.Unmarshal([]byte(text), &s); e != nil {
		return s, errors.Join(err, fmt.Errorf("read the status: %w: %s", e, tail(text)))
	}
	if !s.Running {
		return s, fmt.Errorf("no daemon answers: %s", s.Why)
	}
	return s, nil
}

// Listing returns the newest reports.
func (m *Machine) Listing() ([]Incident, error) {
	text, err := m.Sh("freezeframe list --json")
	if err != nil {
		return nil, err
	}
	var l struct {
		Incidents []Incident `json:"incidents"`
	}
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return nil, fmt.Errorf("read the list: %w: %s", err, tail(text))
	}
	return l.Incidents, nil
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
	text, err := m.Sh("freezeframe show --json %s", id)
	if err == nil {
		err = json.Unmarshal([]byte(text), &r)
	}
	return r, err
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

// Samples waits until readings reach the disk that were not there before.
func (m *Machine) Samples() error {
	from := time.Now()
	return m.Until(20*time.Second, func() error {
		s, err := m.Status()
		if err == nil && !s.Box.Newest.After(from) {
			err = fmt.Errorf("the newest reading on disk is of %s, asked since %s (%s)", s.Box.Newest.Format(time.TimeOnly), from.Format(time.TimeOnly), s.Box.Err)
		}
		return err
	})
}

// Restarts is how often systemd started the service again by itself.
func (m *Machine) Restarts() (int, error) { return m.Number(Service, "NRestarts") }

// Unshaken makes something happen, lets it last, and wants the same process of
// the service to be there after it, sampling.
func (m *Machine) Unshaken(begin []string, last time.Duration, during func() error, end []string) error {
	before, err := m.Number(Service, "MainPID")
	if err != nil {
		return err
	}
	err = m.All(begin...)
	if err == nil {
		time.Sleep(last)
		if during != nil {
			err = during()
		}
	}
	err = errors.Join(err, m.All(end...))
	if err != nil {
		return err
	}
	if err := m.Samples(); err != nil {
		return err
	}
	after, err := m.Number(Service, "MainPID")
	if err == nil && after != before {
		log, _ := m.Sh("journalctl --no-pager -q -n 12 -o cat -u %s", Service)
		err = fmt.Errorf("process %d was replaced by %d:\n%s", before, after, log)
	}
	return err
}

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
