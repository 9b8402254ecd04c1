package archive

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/internal/schedules"
	"freezeframe/recorder"
)

// Bounds of the memory of series whose reports are gone.
const (
	maxSeries    = 1024
	keptMoments  = 128 // of one series; the count goes on
	seriesFormat = 1
)

// Series are the stalls with one fingerprint: those whose reports are kept, and
// those whose reports are gone.
type Series struct {
	Fingerprint string            `json:"fingerprint"`
	Cause       freezeframe.Cause `json:"cause"`
	Title       string            `json:"title"`
	Who         string            `json:"who,omitempty"` // the culprit in a few words
	Kept        int               `json:"kept"`          // how many reports are kept
	freezeframe.Recurrence
}

// memory is what is left of the reports of a series that were given up. Its
// ids, which hold the moments, are in order.
type memory struct {
	Fingerprint string            `json:"fingerprint"`
	Cause       freezeframe.Cause `json:"cause"`
	Title       string            `json:"title"`
	Who         string            `json:"who,omitempty"`
	Unit        string            `json:"unit,omitempty"`
	Count       int               `json:"count"`
	First       time.Time         `json:"first"`
	Moments     []string          `json:"moments"`
}

// seriesHead is the first line of the file. Pending are reports that are
// counted in it, and whose files are about to go: a crash may have left them.
type seriesHead struct {
	Format  int      `json:"format"`
	Pending []string `json:"pending"`
}

func (m *memory) last() time.Time {
	if len(m.Moments) == 0 {
		return m.First
	}
	return startOf(m.Moments[len(m.Moments)-1])
}

// startOf returns the start of the stall that an id begins with.
func startOf(id string) time.Time {
	t, err := time.Parse("20060102T150405.000Z", id[:min(len(id), len("20060102T150405.000Z"))])
	if err != nil {
		return time.Time{}
	}
	return t
}

// fold counts a report that is given up.
func (m *memory) fold(e *record) {
	if i, found := slices.BinarySearch(m.Moments, e.ID); !found {
		m.Count++
		m.Moments = slices.Insert(slices.Clone(m.Moments), i, e.ID)
	}
	if start := startOf(e.ID); m.First.IsZero() || start.Before(m.First) {
		m.First = start
	}
	m.Moments = m.Moments[max(0, len(m.Moments)-keptMoments):]
	m.Cause, m.Title, m.Who, m.Unit = e.Cause, e.Title, e.Who, e.Unit
}

// loadSeries reads the memory of series; what is damaged costs its series.
func (a *Archive) loadSeries() {
	a.past, a.pending = make(map[string]memory), nil
	first := true
	broken, err := readLines(filepath.Join(a.dir, seriesFile), func(text []byte) error {
		if first {
			first = false
			var h seriesHead
			if err := json.Unmarshal(text, &h); err == nil && h.Format != 0 {
				if h.Format > seriesFormat {
					return errors.New("a newer format")
				}
				a.pending = slices.DeleteFunc(h.Pending, func(id string) bool { return !validID.MatchString(id) })
				return nil
			}
		}
		var m memory
		if err := json.Unmarshal(text, &m); err != nil {
			return err
		}
		m.Moments = slices.DeleteFunc(m.Moments, func(id string) bool { return !validID.MatchString(id) })
		slices.Sort(m.Moments)
		if !validFingerprint.MatchString(m.Fingerprint) || m.Count < len(m.Moments) {
			return errors.New("it says nothing")
		}
		a.past[m.Fingerprint] = m
		return nil
	})
	switch {
	case err != nil:
		a.damage("the memory of series could not be read: " + err.Error())
	case broken > 0:
		a.damage(plural(broken, "line") + " of the memory of series is damaged: what they counted is forgotten")
	}
}

// saveSeries writes the memory of series.
func (a *Archive) saveSeries(past map[string]memory, pending []string) error {
	var list []memory
	for _, m := range past {
		list = append(list, m)
	}
	slices.SortFunc(list, func(x, y memory) int {
		return cmp.Or(y.last().Compare(x.last()), strings.Compare(x.Fingerprint, y.Fingerprint))
	})
	for _, m := range list[min(len(list), maxSeries):] { // the longest ago
		delete(past, m.Fingerprint)
	}
	list = list[:min(len(list), maxSeries)]
	head, err := json.Marshal(seriesHead{Format: seriesFormat, Pending: pending})
	if err != nil {
		return err
	}
	b := appendLine(nil, head)
	for i := range list {
		text, err := json.Marshal(&list[i])
		if err != nil {
			return err
		}
		b = appendLine(b, text)
	}
	return recorder.SaveFile(filepath.Join(a.dir, seriesFile), func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(b))
		return err
	})
}

// gathered is a series as it is now: ids of all stalls that are remembered.
type gathered struct {
	Series
	unit string // of the culprit
	ids  []string
	ran  [][]string
}

// gather returns the series of one fingerprint, or of all where it is "", with
// extra counted in. The archive's lock is held.
func (a *Archive) gather(fingerprint string, extra *record) map[string]*gathered {
	out := make(map[string]*gathered)
	get := func(fingerprint string) *gathered {
		g := out[fingerprint]
		if g == nil {
			g = &gathered{Series: Series{Fingerprint: fingerprint}}
			out[fingerprint] = g
		}
		return g
	}
	remember := func(m memory) {
		g := get(m.Fingerprint)
		g.Cause, g.Title, g.Who, g.unit = m.Cause, m.Title, m.Who, m.Unit
		g.Count, g.First = m.Count, m.First
		g.ids = append(g.ids, m.Moments...)
	}
	live := func(e *record) {
		g := get(e.Fingerprint)
		g.Cause, g.Title, g.Who, g.unit = e.Cause, e.Title, e.Who, e.Unit
		g.Kept++
		g.ran = append(g.ran, e.Ran)
		// One whose files were to go when the machine stopped is counted already.
		if past := a.past[e.Fingerprint].Moments; len(past) > 0 {
			if _, found := slices.BinarySearch(past, e.ID); found {
				return
			}
		}
		g.Count++
		if start := startOf(e.ID); g.First.IsZero() || start.Before(g.First) {
			g.First = start
		}
		g.ids = append(g.ids, e.ID)
	}
	if fingerprint == "" {
		for _, m := range a.past {
			remember(m)
		}
	} else if m, ok := a.past[fingerprint]; ok {
		remember(m)
	}
	for _, id := range a.ids {
		e := a.records[id]
		if fingerprint != "" && e.Fingerprint != fingerprint || extra != nil && e.ID == extra.ID {
			continue
		}
		live(e)
	}
	if extra != nil {
		live(extra)
	}
	for _, g := range out {
		slices.Sort(g.ids)
	}
	return out
}

// judge fills in what follows from the moments.
func (g *gathered) judge(loc *time.Location, jobs []schedules.Job) {
	var moments []time.Time
	for _, id := range g.ids {
		moments = append(moments, startOf(id))
	}
	if len(moments) == 0 {
		return
	}
	g.Last = moments[len(moments)-1]
	median, near, of := spacing(moments[max(0, len(moments)-maxMoments):])
	g.SpacingS, g.Regular = float64(median.Milliseconds())/1000, regular(near, of)
	hits := moments
	p := findPattern(moments, loc)
	if p != nil {
		g.Pattern = p.String()
		hits = p.times
	}
	g.Recurrence.Unit = matchJobs(jobs, hits, moments, g.unit)
	if g.Recurrence.Unit == "" {
		g.Recurrence.Unit = matchRan(g.ran)
	}
}
