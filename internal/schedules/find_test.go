package schedules

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tree writes files below a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if link, ok := strings.CutPrefix(text, "-> "); ok {
			if err := os.Symlink(link, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func machine(t *testing.T) map[string]string {
	return map[string]string{
		"run/systemd/system/x":                                   "",
		"lib/systemd/system/apt-daily.timer":                     "[Unit]\nOnCalendar=hourly\n[Timer]\nOnCalendar=*-*-* 6,18:00\nRandomizedDelaySec=12h\n",
		"lib/systemd/system/man-db.timer":                        "[Timer]\n# OnCalendar=hourly\nOnCalendar=daily\nAccuracySec=12h\nUnit=manual.service\n",
		"lib/systemd/system/fstrim.timer":                        "[Timer]\nOnCalendar=weekly\nAccuracySec=1h\n",
		"lib/systemd/system/masked.timer":                        "[Timer]\nOnCalendar=daily\n",
		"etc/systemd/system/masked.timer":                        "-> /dev/null",
		"lib/systemd/system/off.timer":                           "[Timer]\nOnCalendar=daily\n",
		"lib/systemd/system/boot.timer":                          "[Timer]\nOnBootSec=15min\nOnUnitActiveSec=1d\n",
		"lib/systemd/system/pg_dump@.timer":                      "[Timer]\nOnCalendar=03:10\nAccuracySec=1us\n",
		"lib/systemd/system/bad.timer":                           "[Timer]\nOnCalendar=every full moon\n",
		"etc/systemd/system/fstrim.timer.d/a":                    "[Timer]\nOnCalendar=hourly\n",
		"etc/systemd/system/fstrim.timer.d/a.conf":               "[Timer]\nOnCalendar=\nOnCalendar=Sun \\\n  3:30\n",
		"etc/systemd/system/timers.target.wants/apt-daily.timer": "-> /lib/systemd/system/apt-daily.timer",
		"etc/crontab": "SHELL=/bin/sh\n17 * * * * root cd / && run-parts --report /etc/cron.hourly\n" +
			"25 6 * * * root test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }\nnonsense here\n",
		"etc/cron.daily/dpkg":           "#!/bin/sh\n",
		"etc/cron.daily/logrotate":      "#!/bin/sh\n",
		"etc/cron.daily/.placeholder":   "",
		"etc/cron.daily/README":         "not a program",
		"etc/cron.hourly/.placeholder":  "",
		"etc/cron.d/e2scrub_all":        "30 3 * * 0 root test -e /run/systemd/system || SERVICE_MODE=1 /sbin/e2scrub_all_cron\n",
		"etc/cron.d/app":                "CRON_TZ=America/New_York\n5 4 * * * app /opt/app/nightly --password=geheim\n",
		"etc/cron.d/left.dpkg-old":      "1 1 * * * root /bin/old\n",
		"var/spool/cron/crontabs/alice": "10 3 * * * /home/alice/bin/backup.sh \x1b[2J\n@reboot /bin/x\n",
	}
}

const listed = `[{"next":1790000000000000,"left":1,"last":1780000000000000,"passed":1,"unit":"apt-daily.timer","activates":"apt-daily.service"},
{"next":null,"left":null,"last":null,"passed":null,"unit":"man-db.timer","activates":"man-db.service"},
{"unit":"fstrim.timer","last":0},{"unit":"masked.timer"},{"unit":"bad.timer"},{"unit":"boot.timer","last":1780000001000000,"activates":"boot.service"},
{"unit":"pg_dump@main.timer","activates":"pg_dump@main.service"},{"unit":"run-u1.timer","last":1780000002000000,"activates":"run-u1.service"},{"unit":"../../x.timer"},{"unit":7.5e300}]`

func names(jobs []Job) (out []string) {
	for _, j := range jobs {
		out = append(out, j.Name)
	}
	slices.Sort(out)
	return out
}

func TestFind(t *testing.T) {
	root := tree(t, machine(t))
	table := strings.Replace(listed, `,{"unit":7.5e300}`, "", 1)
	f := Finder{Root: root, Location: time.UTC, ListTimers: func(context.Context) ([]byte, error) { return []byte(table), nil }}
	jobs, err := f.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/etc/cron.d/app (nightly)", "/etc/cron.daily (dpkg, logrotate)", "apt-daily.timer", "boot.timer", "crontab of alice (backup.sh)", "fstrim.timer", "man-db.timer", "pg_dump@main.timer", "run-u1.timer"}
	if got := names(jobs); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	from := time.Date(2026, 11, 30, 17, 5, 0, 0, time.UTC)
	for name, want := range map[string]struct {
		next, starts string
		delay        time.Duration
	}{
		"apt-daily.timer":                   {"2026-11-30 18:00:00", "apt-daily.service", 12*time.Hour + time.Minute},
		"man-db.timer":                      {"2026-12-01 00:00:00", "manual.service", 12 * time.Hour},
		"fstrim.timer":                      {"2026-12-06 03:30:00", "fstrim.service", time.Hour},
		"boot.timer":                        {"0001-01-01 00:00:00", "boot.service", time.Minute},
		"pg_dump@main.timer":                {"2026-12-01 03:10:00", "pg_dump@main.service", time.Microsecond},
		"/etc/cron.daily (dpkg, logrotate)": {"2026-12-01 06:25:00", "", 0},
		"/etc/cron.d/app (nightly)":         {"2026-12-01 09:05:00", "", 0},
		"crontab of alice (backup.sh)":      {"2026-12-01 03:10:00", "", 0},
	} {
		i := slices.IndexFunc(jobs, func(j Job) bool { return j.Name == name })
		if i < 0 {
			continue
		}
		j := jobs[i]
		if got := texts([]time.Time{j.Next(from)}, time.UTC)[0]; got != want.next || j.Starts != want.starts || j.Delay != want.delay {
			t.Errorf("%s: next %s starts %q delay %v, want %+v", name, got, j.Starts, j.Delay, want)
		}
	}
	if i := slices.IndexFunc(jobs, func(j Job) bool { return j.Name == "apt-daily.timer" }); i < 0 || !jobs[i].Last.Equal(time.UnixMicro(1780000000000000)) || jobs[i].Interval != 1e7*time.Second {
		t.Errorf("last and interval: %+v", jobs[max(i, 0)])
	}
}

func TestFindWithoutSystemctl(t *testing.T) {
	root := tree(t, machine(t))
	f := Finder{Root: root, Location: time.UTC, ListTimers: func(context.Context) ([]byte, error) { return nil, errors.New("no bus") }}
	jobs, err := f.Find(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no bus") {
		t.Errorf("error %v", err)
	}
	if got := names(jobs); !slices.Contains(got, "apt-daily.timer") || slices.Contains(got, "off.timer") {
		t.Errorf("found %q: only what a target wants is active", got)
	}
	// Where systemd is not the init its timers do not run, and cron's other half does.
	if err := os.RemoveAll(filepath.Join(root, "run")); err != nil {
		t.Fatal(err)
	}
	jobs, err = f.Find(t.Context())
	if got := names(jobs); err != nil || slices.Contains(got, "apt-daily.timer") || !slices.Contains(got, "/etc/cron.d/e2scrub_all (e2scrub_all_cron)") {
		t.Errorf("without systemd: %q, %v", got, err)
	}
	// Where anacron does cron.daily nobody knows when.
	if err := os.MkdirAll(filepath.Join(root, "usr/sbin/anacron"), 0o755); err != nil {
		t.Fatal(err)
	}
	jobs, _ = f.Find(t.Context())
	if got := names(jobs); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "cron.daily") }) {
		t.Errorf("with anacron: %q", got)
	}
}

func TestFindBadInput(t *testing.T) {
	root := tree(t, map[string]string{
		"run/systemd/system/x": "", "etc/crontab": strings.Repeat("x", maxFile+1), "etc/cron.d/ok": "1 1 * * * root /bin/ok\n",
		"var/spool/cron/crontabs/eve\n": "* * * * * \x1b[2Jx\n",
	})
	f := Finder{Root: root, Location: time.UTC, ListTimers: func(context.Context) ([]byte, error) { return []byte(`{"a`), nil }}
	jobs, err := f.Find(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not understood") || !strings.Contains(err.Error(), "/etc/crontab is larger") {
		t.Errorf("error %v", err)
	}
	if got := names(jobs); len(got) != 2 || got[0] != "/etc/cron.d/ok (ok)" || strings.ContainsAny(got[1], "\x1b\n") {
		t.Errorf("found %q", got)
	}
	// Whoever asks waits no longer than it said.
	ctx, cancel := context.WithCancel(t.Context())
	f.ListTimers = func(ctx context.Context) ([]byte, error) { cancel(); <-ctx.Done(); return nil, ctx.Err() }
	if _, err := f.Find(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a systemctl that hangs: %v", err)
	}
}

// This machine has crontabs or timers, or nothing at all: either is no error.
func TestFindHere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	jobs, err := Find(ctx)
	t.Logf("%q, %v", names(jobs), err)
	for _, j := range jobs {
		if j.Name == "" || len(j.Times) == 0 && j.Last.IsZero() {
			t.Errorf("%+v says nothing", j)
		}
	}
}

func FuzzParseTimers(f *testing.F) {
	f.Add([]byte(listed))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := parseTimers(b)
		if err != nil {
			return
		}
		for _, r := range rows {
			if !timerName(r.Unit) {
				t.Errorf("unit %q", r.Unit)
			}
			micros(r.Last)
		}
	})
}

func FuzzTimerUnit(f *testing.F) {
	f.Add([]byte("[Timer]\nOnCalendar=Sun \\\n 3:30\nRandomizedDelaySec=1h 5min\nUnit=%i.service\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		u := timerUnit{accuracy: defaultAccuracy}
		u.parse(b, time.UTC)
		if u.accuracy < 0 || u.delay < 0 || len(u.times) > maxParts {
			t.Errorf("%+v", u)
		}
	})
}
