package checks

import (
	"strings"
	"testing"
	"time"
)

func statusAt(change func(*Status)) Status {
	s := Status{PID: 7}
	s.Coverage.Recorder.Samples = 100
	s.Box.Oldest, s.Box.Newest = time.Unix(1_000, 0), time.Unix(2_000, 0)
	s.Box.LagMs, s.Box.Gaps = 2_000, 1
	if change != nil {
		change(&s)
	}
	return s
}

func TestWhatIsNotOnDisk(t *testing.T) {
	before := statusAt(nil)
	later := func(s *Status) { s.Coverage.Recorder.Samples += 50 }
	for name, c := range map[string]struct {
		change func(*Status)
		want   string
	}{
		"all is well":                  {later, ""},
		"another process has begun":    {func(s *Status) { s.PID, s.Coverage.Recorder.Samples = 8, 3 }, ""},
		"the clock was set back":       {func(s *Status) { later(s); s.Box.Newest = time.Unix(500, 0) }, ""},
		"no reading is made":           {func(s *Status) { s.Box.Newest = time.Unix(9_000, 0) }, "no reading was made"},
		"the disk does not take it":    {func(s *Status) { later(s); s.Box.LagMs = 5_000 }, "on the disk up to 5s ago"},
		"it was given up":              {func(s *Status) { later(s); s.Box.Err = "no space left" }, "no space left"},
		"nothing was ever written":     {func(s *Status) { later(s); s.Box.Newest = time.Time{} }, "no reading is on the disk"},
		"written before it was wanted": {func(s *Status) { later(s); s.Box.LagMs = 4_001 }, "asked since 4s"},
	} {
		s := statusAt(c.change)
		if err := s.onDisk(before, 4*time.Second); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestWhatIsLost(t *testing.T) {
	before := statusAt(nil)
	for want, change := range map[string]func(*Status){
		"was replaced by 8":     func(s *Status) { s.PID = 8 },
		"2 times what was":      func(s *Status) { s.Box.Gaps = 3 },
		"the oldest reading is": func(s *Status) { s.Box.Oldest = time.Unix(1_001, 0) },
	} {
		s := statusAt(change)
		if err := s.lost(before); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, change := range []func(*Status){nil, func(s *Status) { s.Box.Oldest = time.Unix(900, 0) }} {
		s := statusAt(change)
		if err := s.lost(before); err != nil {
			t.Error(err)
		}
	}
	nothing := statusAt(func(s *Status) { s.Box.Oldest = time.Time{} })
	if s := statusAt(nil); s.lost(nothing) != nil {
		t.Errorf("of nothing is lost: %v", s.lost(nothing))
	}
}
