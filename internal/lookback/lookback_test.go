package lookback

import (
	"context"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/recorder"
)

// at is a minute of an hour long ago.
func at(minute float64) time.Time {
	return time.Date(2026, 1, 14, 3, 0, 0, 0, time.UTC).Add(time.Duration(minute * float64(time.Minute)))
}

// What is not recorded of a span is told, and why.
func TestGaps(t *testing.T) {
	p := func(run uint64, boot string, from, to float64) recorder.Passage {
		return recorder.Passage{Run: run, Boot: boot, Start: at(from), End: at(to)}
	}
	full := p(1, "a", 0, 60)
	full.Gaps = []recorder.BoxGapTime{{Start: at(-1), End: at(2), Text: "the disk"}, {Start: at(61), End: at(62), Text: "later"}}
	for name, x := range map[string]struct {
		passages []recorder.Passage
		now      bool
		want     []freezeframe.Gap
	}{
		"nothing":             {nil, false, []freezeframe.Gap{{Start: at(0), End: at(60), Why: "nothing is kept of it"}}},
		"all but a moment":    {[]recorder.Passage{p(1, "a", 0.5, 59.5)}, false, nil},
		"a gap of the disk":   {[]recorder.Passage{full}, false, []freezeframe.Gap{{Start: at(0), End: at(2), Why: "the disk", Part: true}}},
		"it slept":            {[]recorder.Passage{p(1, "a", -5, 20), p(1, "a", 30, 70)}, false, []freezeframe.Gap{{Start: at(20), End: at(30), Why: "slept"}}},
		"started anew":        {[]recorder.Passage{p(1, "a", 0, 20), p(2, "a", 20.1, 60)}, false, []freezeframe.Gap{{Start: at(20), End: at(20.1), Why: "not started anew"}}},
		"another boot":        {[]recorder.Passage{p(1, "a", 0, 20), p(2, "b", 20.1, 60)}, false, []freezeframe.Gap{{Start: at(20), End: at(20.1), Why: "was down"}}},
		"its end, no daemon":  {[]recorder.Passage{p(1, "a", 0, 40)}, false, []freezeframe.Gap{{Start: at(40), End: at(60), Why: "not running"}}},
		"its end, disk hangs": {[]recorder.Passage{p(1, "a", 0, 40)}, true, []freezeframe.Gap{{Start: at(40), End: at(60), Why: "in memory"}}},
		"its beginning":       {[]recorder.Passage{p(1, "a", 40, 60)}, false, []freezeframe.Gap{{Start: at(0), End: at(40), Why: "nothing that old"}}},
		"clocks set back":     {[]recorder.Passage{p(1, "a", 0, 60), p(2, "a", 30, 50)}, false, nil},
	} {
		l := &look{q: Question{Since: at(0), Until: at(60)}, survey: recorder.Survey{Passages: x.passages}}
		if x.now {
			l.Now = &freezeframe.Coverage{}
		}
		got := l.gaps()
		if len(got) != len(x.want) {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i, g := range got {
			if w := x.want[i]; !g.Start.Equal(w.Start) || !g.End.Equal(w.End) || g.Part != w.Part || !strings.Contains(g.Why, w.Why) {
				t.Errorf("%s: %+v, want %+v", name, g, w)
			}
		}
	}
}

// Who asks a daemon that has just begun is not told that hours are in its memory.
func TestGapBeforeARunThatBegins(t *testing.T) {
	l := &look{q: Question{Since: at(0), Until: at(60)}, survey: recorder.Survey{Passages: []recorder.Passage{{Run: 1, Boot: "a", Start: at(0), End: at(40)}}}}
	l.Now, l.Began = &freezeframe.Coverage{}, at(59.9)
	if got := l.gaps(); len(got) != 1 || !got[0].Start.Equal(at(40)) || !got[0].End.Equal(at(59.9)) || !strings.Contains(got[0].Why, "not running") {
		t.Errorf("%+v", got)
	}
}

// Only so many stalls are judged for one look, the newest, and it is said.
func TestFewAreJudged(t *testing.T) {
	l := &look{}
	clock := freezeframe.Clock{Mono: 1e18, WallNanos: at(60).UnixNano()}
	for i := range maxJudged + 7 {
		start := clock.Instant(at(float64(i)))
		l.survey.Stalls = append(l.survey.Stalls, recorder.PastStall{
			Stall: freezeframe.Stall{Span: freezeframe.Span{Start: start, End: start.Add(time.Second)}}, Clock: clock,
		})
	}
	l.Have = []*freezeframe.Report{{Stall: freezeframe.StallReport{Start: at(10), End: at(10.01)}}}
	l.unkept(context.Background())
	// Without a black box there is nothing to judge them from, which is said of each.
	if l.undone != 6 || l.judged != maxJudged || len(l.missing) != maxJudged || !strings.Contains(l.missing[0].What, "2026-01-14T03:56:00Z") {
		t.Errorf("%d not judged, %d are, %d missing: %+v", l.undone, l.judged, len(l.missing), l.missing[0])
	}
}

func TestASpanThatIsEmpty(t *testing.T) {
	if _, err := At(context.Background(), Options{}, Question{Since: at(1), Until: at(1)}); err == nil {
		t.Error("no error")
	}
	d, err := At(context.Background(), Options{Missing: []freezeframe.Need{{What: "all of it"}}}, Question{Since: at(0), Until: at(1)})
	if err != nil || len(d.Reports) != 0 || len(d.Coverage.NotSeen) != 1 || len(d.Coverage.Gaps) != 0 {
		t.Errorf("%v: %+v", err, d)
	}
}
