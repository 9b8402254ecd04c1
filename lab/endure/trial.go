package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"freezeframe/lab"
)

const (
	// diskMiB is the size of the filesystem that the daemon's data is on.
	diskMiB = 128
	// stepEvery is how often a condition does what is due.
	stepEvery = 200 * time.Millisecond
	// frozenBefore is a stall of before, so that there is a report to lose, and
	// reportMost how long that may take.
	frozenBefore = 2 * time.Second
	reportMost   = 20 * time.Second
)

// condition is something that the daemon has to live beside.
type condition struct {
	name, about string
	// needs says why it cannot be made here; nil: it can.
	needs func(rates) error
	// state makes the directory for the daemon's data; nil: it lies on the small
	// filesystem.
	state func(*trial) string
	// make begins it. step, which may be nil, is called some times a second while
	// it lasts, and end ends it.
	make func(*trial) (step, end func())
	// after judges what is its own, when the recording goes on; nil: nothing.
	after func(*trial)
	most  time.Duration // longest that it makes sense for; 0: as long as is wanted
	said  bool          // the status has to say why nothing is written
	late  bool          // all of the daemon is held up
	deaf  bool          // the daemon is not there at times
}

// conditions lists every one, in the order in which they are made.
func conditions() []condition {
	return []condition{
		calm,
		dataFrozen,
		dataFull,
		dataReadOnly,
		dataErrors,
		dataDevice,
		memory,
		memoryOfAll,
		processes,
		forks,
		kernelLog,
		killed,
		stopped,
		hostileClients,
		clockStepped,
	}
}

// calm is the measure of the others.
var calm = condition{
	name: "calm", about: "nothing is done to the daemon",
	make: func(*trial) (step, end func()) { return nil, func() {} },
}

// elsewhere is a need that only a machine of its own meets.
func elsewhere(why string) func(rates) error {
	return func(rates) error { return errors.New(why) }
}

var (
	dataDevice = condition{
		name: "data-device", about: "the disk of the daemon's data returns errors to everything",
		needs: elsewhere("it takes the device mapper: make vm-service SERVICE='-only data-errors -cuts 0'"),
	}
	memoryOfAll = condition{
		name: "memory-of-all", about: "the memory of the whole machine is exhausted until the kernel kills others",
		needs: elsewhere("others use this machine's memory, and the kernel's choice of a victim is free: it takes a virtual machine"),
	}
	clockStepped = condition{
		name: "clock-stepped", about: "the wall clock goes a day ahead and back",
		needs: elsewhere("others use this machine's clock: make vm-service SERVICE='-only clock-stepped -cuts 0'"),
	}
)

func (c *condition) cannot(o options) error {
	if c.needs == nil {
		return nil
	}
	return c.needs(o.rates)
}

// trial is one run of a condition.
type trial struct {
	*lab.Scene
	rates  rates
	length time.Duration
	disk   *lab.LoopFS
	d      *daemon
	beside []*lab.Proc
	// errorFS is what serves the filesystem of the condition data-errors.
	errorFS *lab.Proc
	m       *meter
	f       *figures

	from, to     time.Time // what was recorded before
	begun, ended time.Time // the condition
	kills        []kill
}

// run makes the condition and measures it. What goes wrong is in the figures.
func (c *condition) run(l *lab.Lab, o options) figures {
	f := figures{Name: c.name, Budget: o.resident, LateOK: c.late, DeafOK: c.deaf}
	err := l.Free(1, func(s *lab.Scene) {
		t := &trial{Scene: s, rates: o.rates, length: o.length, f: &f}
		if c.most > 0 {
			t.length = min(t.length, c.most)
		}
		defer t.keepLog(o.out, c.name)
		t.prepare(o.bin, c, diskMiB)
		t.through(c, o.calm)
	})
	if err != nil {
		f.Wrong = append(f.Wrong, err.Error())
	}
	return f
}

// prepare makes the filesystem and starts the daemon and what is beside it.
func (t *trial) prepare(bin string, c *condition, megabytes int) {
	t.disk = t.LoopFS(megabytes, "-m", "0")
	dir := t.disk.Path("state")
	if c.state != nil {
		dir = c.state(t)
	}
	var err error
	t.d, err = newDaemon(bin, t.Dir, dir)
	t.Check(err)
	for _, name := range []string{"metricsd", "chatd"} {
		t.beside = append(t.beside, t.Start(lab.Cmd{Name: name, Role: "bystander", Args: []string{name, t.Dir}}))
	}
	t.Check(t.d.start(t.Scene))
}

// through makes a condition from its beginning to what is left of before.
func (t *trial) through(c *condition, calm time.Duration) {
	before := t.before(calm)
	killed, err := oomKills()
	t.Check(err)

	t.m = measure(t.d)
	defer t.m.end()
	t.begun = time.Now()
	step, end := c.make(t)
	began := time.Now()
	t.last(t.length, step)
	t.f.Length = time.Since(began)
	if c.said {
		t.wantsFault()
	}
	end()
	t.ended = time.Now()
	t.m.end()
	t.figures()
	after, err := oomKills()
	t.Check(err)
	t.f.OOMKills = after - killed
	t.harmed()

	t.Check(t.d.recorded(t.ended, recoverMost))
	t.compare(before)
	if c.after != nil {
		c.after(t)
	}
	t.stop()
	t.compareFiles(before)
}

// stop ends the daemon as a service manager does.
func (t *trial) stop() {
	took, err := t.d.stop()
	t.f.Stop = took
	if t.f.Ended = err == nil; err != nil {
		t.f.Stopping = err.Error()
	}
}

// known is what the daemon knew before the condition.
type known struct {
	incidents []incident
	gaps      []gap
}

// before lets a while be recorded, with a report in it, and asks what there is.
func (t *trial) before(calm time.Duration) (k known) {
	m := measure(t.d)
	defer m.end()
	time.Sleep(calm)
	m.end()
	t.f.RSSBefore, t.f.CPUBefore = m.rss, m.perMinute()

	thaw := t.Freeze(t.disk.Mount)
	time.Sleep(frozenBefore)
	thaw()
	if err := until(reportMost, func() (err error) {
		k.incidents, err = t.d.list()
		if err == nil && len(k.incidents) == 0 {
			err = errors.New("no report yet")
		}
		return err
	}); err != nil {
		t.note("of the filesystem that was frozen for %v before there is no report: %v", frozenBefore, err)
	}
	var err error
	k.incidents, err = t.d.list()
	t.Check(err)
	st, err := t.d.status()
	t.Check(err)
	t.from, t.to = st.Box.Oldest, st.Box.Newest
	d, err := t.d.diagnose(t.from, t.to)
	t.Check(err)
	k.gaps = d.Coverage.Gaps
	t.f.Before, t.f.Reports = t.to.Sub(t.from), len(k.incidents)
	return k
}

// last lets the condition last, and does what is due meanwhile.
func (t *trial) last(length time.Duration, step func()) {
	for end := time.Now().Add(length); time.Now().Before(end); {
		t.bearable()
		if step != nil {
			step()
		}
		time.Sleep(min(stepEvery, time.Until(end)))
	}
}

// bearable ends the run when it takes too much of the machine.
func (t *trial) bearable() {
	if why := t.m.wrong(); why != "" {
		t.Fail("ended early: %s", why)
	}
}

// wantsFault wants the status to say why nothing is written. A disk that is full
// is noticed at the next flush.
func (t *trial) wantsFault() {
	err := until(10*time.Second, func() error {
		st, err := t.d.status()
		if err == nil && st.Box.Err == "" && st.Reports.Err == "" {
			err = errors.New("the status does not say that nothing can be written")
		}
		if err == nil {
			t.note("its status meanwhile: %.0f ms behind, %q", st.Box.LagMs, strings.Trim(st.Box.Err+"; "+st.Reports.Err, "; "))
		}
		return err
	})
	if err != nil {
		t.wrong("%v", err)
	}
}

// figures takes what the meter measured.
func (t *trial) figures() {
	m, f := t.m, t.f
	f.CPU = m.perMinute()
	f.Readings, f.Late = m.counted("freezeframe_readings_total"), m.counted("freezeframe_late_readings_total")
	f.Dropped = m.dropped()
	f.Starts = t.d.starts - 1
	m.mu.Lock()
	defer m.mu.Unlock()
	f.RSSMean = m.rssSum / float64(max(m.samples, 1))
	f.RSSMost, f.Files, f.Threads, f.WorstLate, f.Lag = m.rss, m.files, m.threads, m.worst, m.lag
	f.Asked, f.Unanswered, f.Slowest = m.asked, m.unanswered, m.slowest
}

// harmed looks at what ran beside the daemon.
func (t *trial) harmed() {
	for _, p := range t.beside {
		how, dead := p.Dead()
		if !dead {
			var err error
			if how, err = state(p.PID); err == nil && how != "T" && how != "t" && how != "Z" {
				continue
			}
		}
		t.f.Harmed = append(t.f.Harmed, fmt.Sprintf("%s, process %d, is gone or stopped (%s)", p.Name, p.PID, how))
	}
}

// state is a process's state, a letter (proc_pid_stat(5)).
func state(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) == 0 {
		return "", fmt.Errorf("the stat of process %d is %q", pid, stat)
	}
	return f[0], nil
}

// compare asks the daemon what is left of before, and what it has of meanwhile.
func (t *trial) compare(before known) {
	now, err := t.d.list()
	t.Check(err)
	t.f.LostReports = lostOf(before.incidents, now)
	t.f.NewReports = len(now) - (len(before.incidents) - len(t.f.LostReports))
	d, err := t.d.diagnose(t.from, t.to)
	t.Check(err)
	t.f.Lost = max(missing(d.Coverage.Gaps, t.from, t.to)-missing(before.gaps, t.from, t.to), 0)
	d, err = t.d.diagnose(t.to, t.ended)
	t.Check(err)
	t.f.NotRecorded = missing(d.Coverage.Gaps, t.to, t.ended)
}

// compareFiles looks at what the daemon has left, now that none runs.
func (t *trial) compareFiles(before known) {
	d, err := t.d.diagnose(t.from, t.to)
	t.Check(err)
	t.f.LostOnDisk = max(missing(d.Coverage.Gaps, t.from, t.to)-missing(before.gaps, t.from, t.to), 0)
	for _, i := range before.incidents {
		found := !i.Start.Before(t.to) || !i.End.After(t.from) // it is of another time
		for _, r := range d.Reports {
			found = found || r.ID == i.ID
		}
		if !found {
			t.f.LostReports = append(t.f.LostReports, i.ID+" (of the files)")
		}
	}
}

func (t *trial) note(format string, args ...any) {
	t.f.Notes = append(t.f.Notes, fmt.Sprintf(format, args...))
}

func (t *trial) wrong(format string, args ...any) {
	t.f.Wrong = append(t.f.Wrong, fmt.Sprintf(format, args...))
}

// keepLog copies the daemon's log to where results are kept.
func (t *trial) keepLog(dir, name string) {
	if dir == "" || t.d == nil {
		return
	}
	err := copyFile(filepath.Join(dir, name+".log"), t.d.log)
	if err != nil {
		t.note("the daemon's log is not kept: %v", err)
	}
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
