package schedules

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCronTimes(t *testing.T) {
	from := time.Date(2026, 11, 30, 17, 5, 0, 0, time.UTC) // a Monday
	for in, want := range map[string]string{
		"25 6 * * * root /bin/x":           "2026-12-01 06:25:00, 2026-12-02 06:25:00",
		"*/15 * * * * root x":              "2026-11-30 17:15:00, 2026-11-30 17:30:00",
		"47 6\t* * 7 root x":               "2026-12-06 06:47:00, 2026-12-13 06:47:00",
		"0 0 1 * mon root x":               "2026-12-01 00:00:00, 2026-12-07 00:00:00", // either
		"0 0 */2 * mon root x":             "2026-12-07 00:00:00, 2026-12-21 00:00:00", // both
		"10-12 3 * JAN-feb * root x":       "2027-01-01 03:10:00, 2027-01-01 03:11:00",
		"0 12 * * 5-7 root x":              "2026-12-04 12:00:00, 2026-12-05 12:00:00",
		"@hourly root x":                   "2026-11-30 18:00:00, 2026-11-30 19:00:00",
		"@weekly root x":                   "2026-12-06 00:00:00, 2026-12-13 00:00:00",
		"-*/30 * * * * root x":             "2026-11-30 17:30:00, 2026-11-30 18:00:00",
		"0,30 8-18/5 * * 1-5 root x -y 10": "2026-11-30 18:00:00, 2026-11-30 18:30:00",
	} {
		l, err := ParseCron(in, true, time.UTC)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := strings.Join(texts(next(l.Times, from, 2), time.UTC), ", "); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		if l.User != "root" || l.Command == "" {
			t.Errorf("%q: user %q, command %q", in, l.User, l.Command)
		}
	}
	l, err := ParseCron("5 4 * * sun  backup.sh --password=x", false, time.UTC)
	if err != nil || l.User != "" || l.Command != "backup.sh --password=x" {
		t.Errorf("a user's line: %+v, %v", l, err)
	}
}

func TestCronNotUnderstood(t *testing.T) {
	for _, in := range []string{"", "  # 1 2 3 4 5 root x", "PATH=/bin", `MAILTO="a b"`} {
		if _, err := ParseCron(in, true, time.UTC); !errors.Is(err, errNoEntry) {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, in := range []string{"60 * * * * root x", "* 24 * * * root x", "* * 0 * * root x", "* * * 13 * root x", "* * * * 8 root x", "5/10 * * * * root x", "0~59 * * * * root x",
		"@reboot root x", "* * * * *", "* * * * * root", "* * * * root x", "9-5 * * * * root x", "*/0 * * * * root x", "1,,2 * * * * root x", "* * * * fri-mon root x", "1" + strings.Repeat(" ", maxCronLine)} {
		if l, err := ParseCron(in, true, time.UTC); err == nil || errors.Is(err, errNoEntry) {
			t.Errorf("%q: %+v, %v", in, l, err)
		}
	}
}

func TestProgram(t *testing.T) {
	for in, want := range map[string]string{
		"/usr/bin/backup --password=geheim":                               "backup",
		"cd / && run-parts --report /etc/cron.hourly":                     "run-parts",
		`[ -d "/run/systemd/system" ] || /usr/share/atop/atop.daily&`:     "atop.daily",
		"test -e /run/systemd/system || SERVICE_MODE=1 /sbin/e2scrub_all": "e2scrub_all",
		"nice -n 19 /opt/x.sh":                                            "x.sh",
		"flock /tmp/l /opt/x.sh":                                          "flock",
		"":                                                                "",
		"A=1 B=2":                                                         "",
		"; ; |":                                                           "",
	} {
		if got := program(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzParseCron(f *testing.F) {
	for _, s := range []string{"25 6 * * 7 root x", "@daily x", "*/5,1-3 8-18/2 1,15 jan-mar mon-fri bob y # z", "-1 2 3 4 5 a b", "A=b"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	from := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string, system bool) {
		l, err := ParseCron(s, system, time.UTC)
		if err != nil {
			return
		}
		if n := l.Times.Next(from); !n.IsZero() && (!n.After(from) || n.Second() != 0) {
			t.Fatalf("%q: %v", s, n)
		}
		if l.Command == "" {
			t.Fatalf("%q has no command", s)
		}
		program(l.Command)
	})
}

func FuzzCrontab(f *testing.F) {
	f.Add([]byte("CRON_TZ=UTC\n25 6 * * * root test -x /x || { cd / && run-parts /etc/cron.daily; }\n"), "")
	f.Add([]byte("* * * * * \x1b[2J"), "eve\n")
	f.Fuzz(func(t *testing.T, b []byte, user string) {
		finder := Finder{Root: "testdata/none", Location: time.UTC}
		for _, j := range finder.crontab("/etc/crontab", user, b) {
			if len(j.Name) > maxName || strings.ContainsAny(j.Name, "\x1b\n\x00") {
				t.Errorf("name %q", j.Name)
			}
		}
	})
}
