package schedules

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"freezeframe/internal/kernel"
	"freezeframe/internal/printable"
)

// Bounds of what is read.
const (
	maxFile  = 256 << 10
	maxFiles = 2000 // of one directory
	maxJobs  = 5000
	maxName  = 96
	maxTable = 4 << 20 // of what systemctl prints
)

// unitDirs are where units are looked for, the first that has one wins
// (systemd.unit(5)).
var unitDirs = [...]string{
	"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient",
	"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator",
	"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
}

// defaultAccuracy is AccuracySec= of systemd.timer(5).
const defaultAccuracy = time.Minute

// Finder looks for jobs.
type Finder struct {
	Root     string // the directory that paths begin in; "" is /
	Location *time.Location
	// ListTimers runs systemctl list-timers and returns its JSON.
	ListTimers func(context.Context) ([]byte, error)
}

// Find returns the jobs of this machine: it reads the units and crontabs, and
// asks systemctl within the deadline of ctx. It can hang where a filesystem
// does. What could not be had is in the error; the rest is returned all the
// same.
func Find(ctx context.Context) ([]Job, error) {
	f := Finder{Location: time.Local, ListTimers: func(ctx context.Context) ([]byte, error) {
		c := exec.CommandContext(ctx, "systemctl", "list-timers", "--all", "--no-pager", "--output=json")
		c.Env = append(os.Environ(), "LC_ALL=C")
		c.WaitDelay = time.Second // a child that keeps the pipe open does not hold us
		out, err := c.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, printable.Name(string(bytes.TrimSpace(exit.Stderr)), 200))
		}
		return out, err
	}}
	return f.Find(ctx)
}

// Find returns the jobs below f.Root.
func (f *Finder) Find(ctx context.Context) ([]Job, error) {
	jobs, errs := f.find(ctx)
	if ctx.Err() != nil {
		errs = append(errs, fmt.Errorf("look for timers and cron entries: %w", ctx.Err()))
	}
	return jobs, errors.Join(errs...)
}

func (f *Finder) find(ctx context.Context) (jobs []Job, errs []error) {
	keep := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	// Without systemd as init nobody starts its timers (sd_booted(3)).
	if f.exists("/run/systemd/system") {
		var err error
		jobs, err = f.timers(ctx)
		keep(err)
	}
	add := func(path, user string) {
		b, err := f.read(path)
		keep(err)
		jobs = append(jobs, f.crontab(path, user, b)...)
	}
	add("/etc/crontab", "")
	names, err := f.list("/etc/cron.d")
	keep(err)
	for _, name := range names {
		// cron(8) takes no other names: they are editors' and package managers' leftovers.
		if ctx.Err() == nil && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789_-") == "" {
			add("/etc/cron.d/"+name, "")
		}
	}
	// Debian's and Red Hat's places.
	for _, dir := range []string{"/var/spool/cron/crontabs", "/var/spool/cron"} {
		names, err := f.list(dir)
		keep(err)
		for _, name := range names {
			if ctx.Err() == nil && name != "crontabs" && !strings.HasPrefix(name, ".") && !strings.Contains(name, ".") {
				add(dir+"/"+name, name)
			}
		}
	}
	if len(jobs) > maxJobs {
		errs = append(errs, fmt.Errorf("%d timers and cron entries: only %d are looked at", len(jobs), maxJobs))
		jobs = jobs[:maxJobs]
	}
	return jobs, errs
}

func (f *Finder) path(path string) string { return filepath.Join(f.Root, path) }

func (f *Finder) exists(path string) bool {
	_, err := os.Stat(f.path(path))
	return err == nil
}

// read returns the beginning of a regular file. A symbolic link is read in
// Root.
func (f *Finder) read(path string) ([]byte, error) {
	file, err := kernel.OpenRegularIn(cmp.Or(f.Root, "/"), path, true)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes: it is left out", path, maxFile)
	}
	return b, nil
}

// list returns the names in a directory, in order.
func (f *Finder) list(dir string) ([]string, error) {
	d, err := os.Open(f.path(dir))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFiles)
	if err == io.EOF {
		err = nil
	}
	slices.Sort(names)
	return names, err
}

// timers returns the timers that are active.
func (f *Finder) timers(ctx context.Context) ([]Job, error) {
	var jobs []Job
	var errs []error
	active, err := f.active(ctx)
	if err != nil {
		errs = append(errs, err)
		active = f.enabled()
	}
	for _, row := range active {
		if ctx.Err() != nil {
			break
		}
		j := Job{Kind: Timer, Name: printable.Name(row.Unit, maxName), Starts: cmp.Or(row.Activates, strings.TrimSuffix(row.Unit, ".timer")+".service"), Delay: defaultAccuracy, Last: micros(row.Last)}
		if next := micros(row.Next); next.After(j.Last) && !j.Last.IsZero() {
			j.Interval = next.Sub(j.Last)
		}
		u, err := f.timerUnit(row.Unit)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			// A timer without a file (systemd-run) still says when it ran.
			if !j.Last.IsZero() {
				jobs = append(jobs, j)
			}
			continue
		}
		j.Times, j.Delay = u.times, u.accuracy+u.delay
		if u.unit != "" {
			j.Starts = u.unit
		}
		if len(j.Times) > 0 || !j.Last.IsZero() {
			jobs = append(jobs, j)
		}
	}
	return jobs, errors.Join(errs...)
}

// timerRow is a row of systemctl list-timers; times are µs since 1970.
type timerRow struct {
	Unit      string `json:"unit"`
	Activates string `json:"activates"`
	Last      any    `json:"last"`
	Next      any    `json:"next"`
}

func micros(v any) time.Time {
	us, ok := v.(float64)
	if !ok || us < 1e15 || us > 1e16 {
		return time.Time{}
	}
	return time.UnixMicro(int64(us))
}

// active asks systemd which timers wait for their time.
func (f *Finder) active(ctx context.Context) ([]timerRow, error) {
	b, err := f.ListTimers(ctx)
	if err != nil {
		return nil, fmt.Errorf("systemctl list-timers: %w", err)
	}
	return parseTimers(b)
}

func parseTimers(b []byte) ([]timerRow, error) {
	if len(b) > maxTable {
		return nil, fmt.Errorf("systemctl list-timers printed more than %d bytes", maxTable)
	}
	var rows []timerRow
	if err := json.Unmarshal(b, &rows); err != nil {
		return nil, fmt.Errorf("systemctl list-timers: what it printed is not understood: %w", err)
	}
	return slices.DeleteFunc(rows, func(r timerRow) bool { return !timerName(r.Unit) }), nil
}

// enabled is what can be told of active timers without systemd: those that
// some target wants.
func (f *Finder) enabled() (rows []timerRow) {
	seen := make(map[string]bool)
	for _, dir := range unitDirs {
		targets, _ := f.list(dir) // most are not there
		for _, t := range targets {
			if !strings.HasSuffix(t, ".wants") && !strings.HasSuffix(t, ".requires") {
				continue
			}
			names, _ := f.list(dir + "/" + t)
			for _, name := range names {
				if timerName(name) && !seen[name] {
					seen[name] = true
					rows = append(rows, timerRow{Unit: name})
				}
			}
		}
	}
	return rows
}

func timerName(name string) bool {
	return strings.HasSuffix(name, ".timer") && len(name) < 256 && !strings.ContainsAny(name, "/\x00")
}

// timerUnit is what a timer unit and its drop-ins say.
type timerUnit struct {
	times           []Times
	accuracy, delay time.Duration
	unit            string
}

func (f *Finder) timerUnit(name string) (timerUnit, error) {
	u := timerUnit{accuracy: defaultAccuracy}
	template := ""
	if at := strings.IndexByte(name, '@'); at > 0 {
		template = name[:at+1] + ".timer"
	}
	main := false
	for _, file := range []string{name, template} {
		for _, dir := range unitDirs {
			if file == "" || main {
				continue
			}
			if link, err := os.Readlink(f.path(dir + "/" + file)); err == nil && link == "/dev/null" {
				return u, fs.ErrNotExist // masked
			}
			b, err := f.read(dir + "/" + file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return u, err
			}
			u.parse(b, f.Location)
			main = true
		}
	}
	if !main {
		return u, fs.ErrNotExist
	}
	// Drop-ins are sorted by name, whatever directory they are in.
	dropins := make(map[string]string)
	for _, file := range []string{name, template} {
		for _, dir := range unitDirs {
			if file == "" {
				continue
			}
			names, _ := f.list(dir + "/" + file + ".d")
			for _, n := range names {
				if strings.HasSuffix(n, ".conf") && dropins[n] == "" {
					dropins[n] = dir + "/" + file + ".d/" + n
				}
			}
		}
	}
	order := make([]string, 0, len(dropins))
	for n := range dropins {
		order = append(order, n)
	}
	slices.Sort(order)
	for _, n := range order {
		b, err := f.read(dropins[n])
		if err != nil {
			return u, err
		}
		u.parse(b, f.Location)
	}
	return u, nil
}

// parse reads the [Timer] section of a unit file (systemd.syntax(7)). What it
// does not understand it leaves out.
func (u *timerUnit) parse(b []byte, loc *time.Location) {
	section, held := "", ""
	for raw := range strings.Lines(string(b)) {
		line := strings.TrimSpace(raw)
		if line == "" && held == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if strings.HasSuffix(line, `\`) {
			held += strings.TrimSuffix(line, `\`) + " "
			continue
		}
		line, held = strings.TrimSpace(held+line), ""
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section != "[Timer]" {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch key {
		case "OnCalendar":
			if value == "" {
				u.times = nil // starts the list anew
			} else if t, err := ParseCalendar(value, loc); err == nil && len(u.times) < maxParts {
				u.times = append(u.times, t)
			}
		case "AccuracySec":
			u.accuracy = span(value, defaultAccuracy)
		case "RandomizedDelaySec":
			u.delay = span(value, 0)
		case "Unit":
			u.unit = value
			if strings.Contains(value, "%") { // specifiers
				u.unit = ""
			}
		}
	}
}

func span(value string, otherwise time.Duration) time.Duration {
	if value == "" {
		return otherwise
	}
	if d, err := ParseSpan(value); err == nil && d >= 0 {
		return d
	}
	return otherwise
}

var (
	runParts = regexp.MustCompile(`run-parts\s+(?:-\S+\s+)*(/etc/cron\.[a-z]+)\b`)
	// guard is the question that a command begins with whether it is its turn:
	// packages bring a timer and an entry for cron, of which one does nothing.
	guard = regexp.MustCompile(`^(?:test|\[) +-[xefds] +"?([^\s"]+)"?(?: +\])? *(\|\||&&)`)
)

// crontab returns the jobs of one crontab; user is whose it is, "" where each
// line says it.
func (f *Finder) crontab(path, user string, b []byte) (jobs []Job) {
	loc := f.Location
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(make([]byte, 0, 4096), maxFile+1)
	for lines.Scan() && len(jobs) <= maxJobs {
		line := lines.Text()
		l, err := ParseCron(line, user == "", loc)
		if err != nil {
			// From here on times may be of another zone (cronie's CRON_TZ).
			if name, value, ok := cronVariable(line); ok && name == "CRON_TZ" {
				loc, err = time.LoadLocation(value)
				if err != nil {
					return jobs
				}
			}
			continue
		}
		if m := guard.FindStringSubmatch(l.Command); m != nil && f.exists(m[1]) == (m[2] == "||") {
			continue
		}
		name := path
		if user != "" {
			name = "crontab of " + user
		}
		if m := runParts.FindStringSubmatch(l.Command); m != nil {
			scripts := f.scripts(m[1])
			if len(scripts) == 0 {
				continue // it starts nothing
			}
			name = m[1] + " (" + strings.Join(scripts, ", ") + ")"
		} else if p := program(l.Command); p != "" {
			name += " (" + p + ")"
		}
		jobs = append(jobs, Job{Kind: Cron, Name: printable.Name(name, maxName), Times: []Times{l.Times}})
	}
	return jobs
}

// scripts returns what run-parts would run in a directory.
func (f *Finder) scripts(dir string) (names []string) {
	all, _ := f.list(dir)
	for _, name := range all {
		info, err := os.Stat(f.path(dir + "/" + name))
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, "~") {
			names = append(names, name)
		}
	}
	return names
}
