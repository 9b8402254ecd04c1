package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/schedules"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const hostile = "evil\x1b[2J\u202e</script>"

// report is one of the stall that began at start; which makes the fingerprint.
func report(start time.Time, which int) freezeframe.Report {
	start = start.UTC().Truncate(time.Millisecond)
	return freezeframe.Report{
		Schema: freezeframe.ReportSchema, Version: "test",
		ID:          start.Format("20060102T150405.000Z") + fmt.Sprintf("-%08x", which),
		Fingerprint: fmt.Sprintf("%012x", which),
		Stall:       freezeframe.StallReport{Start: start, End: start.Add(2 * time.Second), DurationMs: 2000, Symptoms: []freezeframe.SymptomReport{{Probe: "answer", Target: "0.0.0.0:80", Start: start, End: start.Add(2 * time.Second), WorstMs: 2000, Count: 1, Victims: []string{"nginx (12)"}}}},
		Causes:      []freezeframe.CauseReport{{ID: "io.saturation", Title: "a disk that has more to do than it can", ExplainedPct: 90, Culprit: freezeframe.Culprit{Kind: "process", PID: 3, Comm: "tar"}}},
	}
}

func noJobs(context.Context) ([]schedules.Job, error) { return nil, nil }

func open(t testing.TB, o Options) *Archive {
	t.Helper()
	if o.Jobs == nil {
		o.Jobs = noJobs
	}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// again closes an archive and opens it anew.
func again(t testing.TB, a *Archive) *Archive {
	t.Helper()
	a.Close()
	return open(t, a.o)
}

func add(t testing.TB, a *Archive, r freezeframe.Report) {
	t.Helper()
	if err := a.Add(r, nil); err != nil {
		t.Fatal(err)
	}
}

func list(t testing.TB, a *Archive, q Query) (ids []string) {
	t.Helper()
	entries, err := a.List(q)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// with writes files of these extensions.
func with(r freezeframe.Report, exts ...string) func(string) ([]string, error) {
	return func(dir string) (names []string, err error) {
		for _, ext := range exts {
			name := r.ID + "." + ext
			names = append(names, name)
			if err := os.WriteFile(filepath.Join(dir, name), []byte("the "+ext), 0o640); err != nil {
				return names, err
			}
		}
		return names, nil
	}
}

var now = time.Now().UTC().Truncate(time.Second)

func TestAddAndRead(t *testing.T) {
	a := open(t, Options{Dir: filepath.Join(t.TempDir(), "state", "reports")})
	r := report(now, 1)
	if err := a.Add(r, with(r, "html", "frz")); err != nil {
		t.Fatal(err)
	}
	other := report(now.Add(-time.Hour), 2)
	other.Causes[0].Culprit.Comm = hostile
	add(t, a, other)
	check := func(a *Archive) {
		t.Helper()
		if got, want := list(t, a, Query{}), []string{r.ID, other.ID}; !slices.Equal(got, want) {
			t.Fatalf("listed %q, want %q", got, want)
		}
		got, err := a.Report(r.ID[:15])
		if err != nil {
			t.Fatal(err)
		}
		want := r
		want.Recurrence = &freezeframe.Recurrence{Count: 1, First: r.Stall.Start, Last: r.Stall.Start}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the report:\n%s", diff)
		}
		e, err := a.Find(r.ID)
		if err != nil || !slices.Equal(e.Files, []string{"json", "frz", "html"}) && !slices.Equal(e.Files, []string{"json", "html", "frz"}) || e.Headline == "" || e.Who != "tar (pid 3)" || e.Bytes < 500 {
			t.Errorf("entry %+v, %v", e, err)
		}
		path, err := a.Path(r.ID, "frz")
		if b, _ := os.ReadFile(path); err != nil || string(b) != "the frz" {
			t.Errorf("frz: %q, %v", b, err)
		}
		for q, want := range map[*Query]int{
			{Limit: 1}: 1, {Since: now.Add(-time.Minute)}: 1, {Until: now.Add(-time.Minute)}: 1, {Since: now.Add(-2 * time.Hour), Until: now}: 2,
			{Since: now.Add(time.Second), Until: now.Add(time.Minute)}: 1, // it was still going on
			{Cause: "io.saturation"}:                                   2, {Cause: "fs.full"}: 0, {Fingerprint: "000000000002"}: 1, {Fingerprint: "0"}: 2,
		} {
			if got := list(t, a, *q); len(got) != want {
				t.Errorf("%+v: %d, want %d", *q, len(got), want)
			}
		}
		entries, _ := a.List(Query{Fingerprint: "000000000002"})
		if strings.ContainsAny(entries[0].Who, "\x1b\u202e") {
			t.Errorf("a hostile name is shown as it is: %q", entries[0].Who)
		}
	}
	check(a)
	a = again(t, a)
	check(a)
	// Without its index, with a spoiled one, and with another's.
	for name, spoil := range map[string]func(string) error{
		"gone":    os.Remove,
		"garbage": func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte{0xff, '\n', 0}, 999), 0o640) },
		"empty":   func(p string) error { return os.Truncate(p, 0) },
		"torn":    func(p string) error { return os.Truncate(p, 100) },
	} {
		a.Close()
		if err := spoil(filepath.Join(a.dir, indexFile)); err != nil {
			t.Fatal(err)
		}
		a = open(t, a.o)
		check(a)
		if d := a.Damaged(); len(d) != 0 {
			t.Errorf("index %s: %q", name, d)
		}
	}
	for _, bad := range []Query{{Limit: -1}, {Since: now, Until: now.Add(-1)}} {
		if _, err := a.List(bad); err == nil {
			t.Errorf("%+v is answered", bad)
		}
	}
}

func TestReplace(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir()})
	r := report(now, 1)
	r.Stall.Ongoing = true
	if err := a.Add(r, with(r, "frz")); err != nil {
		t.Fatal(err)
	}
	r.Stall.Ongoing, r.Fingerprint = false, "00000000000f" // judged again, with more to go by
	add(t, a, r)
	for range 2 {
		got, err := a.Report(r.ID)
		if err != nil || got.Stall.Ongoing || len(list(t, a, Query{})) != 1 {
			t.Errorf("%+v, %v", got.Stall, err)
		}
		if _, err := a.Path(r.ID, "frz"); !errors.Is(err, ErrNotFound) {
			t.Errorf("the file of the one that was replaced: %v", err)
		}
		if s := a.Series(); len(s) != 1 || s[0].Count != 1 || s[0].Fingerprint != r.Fingerprint {
			t.Errorf("series %+v", s)
		}
		a = again(t, a)
	}
}

func TestHostileIDs(t *testing.T) {
	dir := t.TempDir()
	a := open(t, Options{Dir: filepath.Join(dir, "reports")})
	r, twin := report(now, 1), report(now, 2)
	add(t, a, r)
	add(t, a, twin)
	if err := os.WriteFile(filepath.Join(dir, "secret.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "../secret", "../reports/" + r.ID, r.ID + "/../" + r.ID, "/etc/passwd", r.ID + "\x00", "20\n", "2*", strings.Repeat("2", 1<<20), "\x1b[2J", " ", "-", r.ID + "0", "%2e%2e", "index", "series", "." + r.ID} {
		for what, err := range map[string]error{
			"Report": func() error { _, err := a.Report(id); return err }(),
			"Path":   func() error { _, err := a.Path(id, "json"); return err }(),
			"Find":   func() error { _, err := a.Find(id); return err }(),
		} {
			if !errors.Is(err, ErrNotFound) || len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\x1b\n\x00") {
				t.Errorf("%s(%.40q): %v", what, id, err)
			}
		}
	}
	if _, err := a.Find(r.ID[:18]); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), twin.ID) {
		t.Errorf("a prefix of two: %v", err)
	}
	for _, ext := range []string{"", "../" + r.ID + ".json", "json/../json", "html", ".json", "JSON", "\x1b[2J"} {
		if p, err := a.Path(r.ID, ext); !errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("extension %q: %q, %v", ext, p, err)
		}
	}
	for _, spoil := range []func(*freezeframe.Report){
		func(r *freezeframe.Report) { r.ID = "../../x" },
		func(r *freezeframe.Report) { r.ID = "" },
		func(r *freezeframe.Report) { r.ID = "20261399T000000.000Z-00000000" },
		func(r *freezeframe.Report) { r.Fingerprint = "../x" },
		func(r *freezeframe.Report) { r.Causes = nil },
		func(r *freezeframe.Report) { r.Stall.Start = time.Time{} },
	} {
		bad := report(now.Add(time.Minute), 3)
		spoil(&bad)
		if err := a.Add(bad, nil); err == nil || errors.Is(err, ErrKept) {
			t.Errorf("%q %q is kept: %v", bad.ID, bad.Fingerprint, err)
		}
	}
	// What files says it wrote is not believed either.
	r = report(now.Add(time.Hour), 4)
	err := a.Add(r, func(dir string) ([]string, error) {
		names, err := with(r, "html", "frz", "not_named")(dir)
		os.Symlink("/etc/passwd", filepath.Join(dir, r.ID+".link"))
		return append(names[:1], filepath.Join(dir, names[1]), "../secret.json", r.ID+".absent", r.ID+".link", "/etc/passwd"), err
	})
	if !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), ".absent was not written") || !strings.Contains(err.Error(), "secret.json") {
		t.Errorf("%v", err)
	}
	e, err := a.Find(r.ID)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(e.Files)), []string{"frz", "html", "json"}) {
		t.Errorf("%+v, %v", e, err)
	}
	if left, _ := os.ReadDir(filepath.Join(a.dir, r.ID)); len(left) != 3 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFilesThatFail(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir(), Bytes: 20_000})
	r := report(now, 1)
	err := a.Add(r, func(dir string) ([]string, error) {
		names, _ := with(r, "html", "frz", "json")(dir) // not a whole one
		return names[:1], syscall.ENOSPC
	})
	if !errors.Is(err, ErrKept) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if got, err := a.Report(r.ID); err != nil || got.ID != r.ID {
		t.Errorf("the report: %v", err)
	}
	if _, err := a.Path(r.ID, "html"); err != nil {
		t.Error(err)
	}
	if _, err := a.Path(r.ID, "frz"); err == nil {
		t.Error("half a file is kept")
	}
	r = report(now.Add(time.Second), 1)
	err = a.Add(r, func(dir string) ([]string, error) {
		return []string{r.ID + ".frz"}, os.WriteFile(filepath.Join(dir, r.ID+".frz"), make([]byte, 30_000), 0o640)
	})
	if !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "larger than the archive") || len(list(t, a, Query{})) != 2 {
		t.Errorf("a file larger than all that may be kept: %v", err)
	}
}

func TestDamagedReportsAreSkippedAndSaid(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir()})
	var all []freezeframe.Report
	for i := range 8 {
		all = append(all, report(now.Add(time.Duration(i)*time.Minute), i))
		add(t, a, all[i])
	}
	file := func(i int) string { return a.file(all[i].ID, "json") }
	info, err := os.Stat(file(0))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(file(0))
	for i, spoil := range []func(string) error{
		func(p string) error { // one bit of the disk
			if err := os.WriteFile(p, bytes.Replace(b, []byte("nginx"), []byte("ngjnx"), 1), 0o640); err != nil {
				return err
			}
			return os.Chtimes(p, info.ModTime(), info.ModTime())
		},
		func(p string) error { return os.Truncate(p, 300) },
		func(p string) error { return os.WriteFile(p, nil, 0o640) },
		os.Remove,
		func(p string) error { return os.WriteFile(p, b, 0o640) }, // another's
		func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("\x00"), 5000), 0o640) },
		func(p string) error { os.Remove(p); return os.Mkdir(p, 0o750) },
	} {
		if err := spoil(file(i)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Report(all[i].ID); err == nil {
			t.Errorf("%d: a damaged report is given out", i)
		}
	}
	if _, err := a.Report(all[0].ID); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit: %v", err)
	}
	a = again(t, a)
	if got, want := list(t, a, Query{}), []string{all[7].ID, all[0].ID}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	said := strings.Join(a.Damaged(), "\n")
	for i := 1; i < 7; i++ {
		if !strings.Contains(said, all[i].ID) {
			t.Errorf("%d is not said: %s", i, said)
		}
		if _, err := os.Stat(filepath.Join(a.dir, all[i].ID)); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if _, err := a.Report(all[1].ID); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged one: %v", err)
	}
	// Taking its place mends it, and the others go with time.
	add(t, a, all[1])
	if s := a.Stats(); s.Damaged != 5 || s.Reports != 3 {
		t.Errorf("%+v", s)
	}
	a.Close()
	a.o.Bytes = 1
	a = open(t, a.o)
	if s := a.Stats(); s.Damaged != 0 || s.Reports != 0 || s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

// A stop at any moment: the steps of Add and prune are made one by one as the
// disk would have them after each.
func TestCrashes(t *testing.T) {
	dir := t.TempDir()
	a := open(t, Options{Dir: dir})
	old, r := report(now.Add(-time.Hour), 1), report(now, 1)
	add(t, a, old)
	if err := a.Add(r, with(r, "frz")); err != nil {
		t.Fatal(err)
	}
	a.Close()
	saved := t.TempDir()
	restore := func() {
		t.Helper()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(dir, os.DirFS(saved)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(saved, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(path(from), path(to)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		do    func()
		there bool
		count int
	}{
		"while it is written":                      {func() { move(r.ID, "."+r.ID+newSuffix) }, false, 1},
		"before its JSON":                          {func() { move(r.ID, "."+r.ID+newSuffix); os.Remove(path("." + r.ID + newSuffix + "/" + r.ID + ".json")) }, false, 1},
		"before the index":                         {func() { os.Truncate(path(indexFile), 0) }, true, 2},
		"in the index":                             {func() { truncateBy(t, path(indexFile), 20) }, true, 2},
		"the index beside its place":               {func() { move(indexFile, "."+indexFile+".123.tmp") }, true, 2},
		"while it is replaced":                     {func() { os.CopyFS(path("."+r.ID+oldSuffix), os.DirFS(path(r.ID))) }, true, 2},
		"between the two renames":                  {func() { move(r.ID, "."+r.ID+oldSuffix) }, true, 2},
		"renames, and the new one too":             {func() { os.CopyFS(path("."+r.ID+newSuffix), os.DirFS(path(r.ID))); move(r.ID, "."+r.ID+oldSuffix) }, true, 2},
		"before the files of what is given up go":  {func() { pend(t, dir, r) }, false, 2},
		"while the files of what is given up go":   {func() { pend(t, dir, r); os.Remove(path(r.ID + "/" + r.ID + ".json")) }, false, 2},
		"after the files of what is given up went": {func() { pend(t, dir, r); os.RemoveAll(path(r.ID)) }, false, 2},
	} {
		restore()
		c.do()
		a := open(t, Options{Dir: dir})
		for range 2 {
			want := []string{r.ID, old.ID}
			if !c.there {
				want = want[1:]
			}
			if got := list(t, a, Query{}); !slices.Equal(got, want) {
				t.Errorf("%s: listed %q, want %q", name, got, want)
			}
			if d := a.Damaged(); len(d) != 0 {
				t.Errorf("%s: %q", name, d)
			}
			if c.there {
				if p, err := a.Path(r.ID, "frz"); err != nil {
					t.Errorf("%s: %v", name, err)
				} else if _, err := os.Stat(p); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if s := a.Series(); len(s) != 1 || s[0].Count != c.count {
				t.Errorf("%s: series %+v, want a count of %d", name, s, c.count)
			}
			left, _ := os.ReadDir(dir)
			for _, f := range left {
				if strings.HasPrefix(f.Name(), ".") {
					t.Errorf("%s: %s is left", name, f.Name())
				}
			}
			a = again(t, a)
		}
		// What was to go can come again, and then stays.
		if !c.there {
			add(t, a, r)
			a = again(t, a)
			if s := a.Series(); len(list(t, a, Query{})) != 2 || s[0].Count != 2 {
				t.Errorf("%s: added again: %q, series %+v", name, list(t, a, Query{}), s)
			}
		}
		a.Close()
	}
}

func truncateBy(t *testing.T, path string, n int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-n); err != nil {
		t.Fatal(err)
	}
}

// pend leaves the archive as prune does before it removes r.
func pend(t *testing.T, dir string, r freezeframe.Report) {
	t.Helper()
	a := open(t, Options{Dir: dir})
	defer a.Close()
	m := memory{Fingerprint: r.Fingerprint}
	m.fold(a.records[r.ID])
	if err := a.saveSeries(map[string]memory{r.Fingerprint: m}, []string{r.ID}); err != nil {
		t.Fatal(err)
	}
}

// The process that writes is killed again and again: what was added is there,
// what was not is not, and nothing is broken.
func TestKilledWhileItWrites(t *testing.T) {
	if dir := os.Getenv("ARCHIVE_TEST_DIR"); dir != "" {
		a := open(t, Options{Dir: dir, Bytes: 40_000})
		for i := 0; ; i++ {
			r := report(time.Now(), i%3)
			if err := a.Add(r, with(r, "frz", "html")); err != nil {
				t.Fatal(err)
			}
			fmt.Println("added", r.ID)
		}
	}
	dir := t.TempDir()
	last, total, count := "", 0, 0
	for i := range 5 {
		c := exec.Command(os.Args[0], "-test.run=^TestKilledWhileItWrites$")
		c.Env = append(os.Environ(), "ARCHIVE_TEST_DIR="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var b [4096]byte
		text := ""
		for want := 30 + 7*i; len(text) < want*30; { // some reports later
			n, err := out.Read(b[:])
			text += string(b[:n])
			if err != nil {
				t.Fatalf("%v: %s", err, text)
			}
		}
		c.Process.Kill()
		for {
			n, err := out.Read(b[:])
			text += string(b[:n])
			if err != nil {
				break
			}
		}
		c.Wait()
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		last = strings.TrimPrefix(lines[len(lines)-1], "added ")
		total += len(lines)
		a := open(t, Options{Dir: dir, Bytes: 40_000})
		if d := a.Damaged(); len(d) != 0 {
			t.Errorf("damaged: %q", d)
		}
		if _, err := a.Report(last); err != nil {
			t.Errorf("the report that was added last: %v", err)
		}
		for _, id := range list(t, a, Query{}) {
			for _, ext := range []string{"json", "frz", "html"} {
				if p, err := a.Path(id, ext); err != nil {
					t.Error(err)
				} else if _, err := os.Stat(p); err != nil {
					t.Error(err)
				}
			}
			if _, err := a.Report(id); err != nil {
				t.Error(err)
			}
		}
		count = 0
		for _, s := range a.Series() {
			count += s.Count
		}
		// One report a kill may have been added without a word of it.
		if count < total || count > total+i+1 {
			t.Errorf("%d reports were added, and %d are counted", total, count)
		}
		if s := a.Stats(); s.Bytes > 40_000 {
			t.Errorf("%d bytes", s.Bytes)
		}
		a.Close()
	}
	t.Logf("%d reports, %d counted", total, count)
}

func TestBoundsAndMemory(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir(), Bytes: 30_000})
	var all []freezeframe.Report
	for i := range 120 {
		all = append(all, report(now.Add(time.Duration(i-120)*time.Minute), i%2))
		add(t, a, all[i])
		if s := a.Stats(); s.Bytes > 30_000 {
			t.Fatalf("%d bytes after %d reports", s.Bytes, i+1)
		}
	}
	for range 2 {
		ids := list(t, a, Query{})
		if len(ids) < 10 || ids[0] != all[119].ID || ids[len(ids)-1] != all[120-len(ids)].ID {
			t.Errorf("%d are kept, from %s to %s", len(ids), ids[len(ids)-1], ids[0])
		}
		for _, s := range a.Series() {
			if s.Count != 60 || s.Kept < 5 || !s.First.Equal(all[0].Stall.Start) && !s.First.Equal(all[1].Stall.Start) || s.SpacingS != 120 {
				t.Errorf("series %+v", s)
			}
		}
		used := int64(0)
		filepath.Walk(a.dir, func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() && filepath.Dir(path) != a.dir {
				used += info.Size()
			}
			return nil
		})
		if used != a.Stats().Bytes {
			t.Errorf("%d bytes are said, %d are used", a.Stats().Bytes, used)
		}
		a = again(t, a)
	}
	// Nothing in the memory grows without bound.
	var many memory
	for i := range 3 * keptMoments {
		many.fold(&record{Entry: Entry{ID: report(now.Add(time.Duration(i)*time.Second), 1).ID}})
		many.fold(&record{Entry: Entry{ID: report(now.Add(time.Duration(i)*time.Second), 1).ID}}) // the same again
	}
	if len(many.Moments) != keptMoments || many.Count != 3*keptMoments {
		t.Errorf("%d moments are kept, %d counted", len(many.Moments), many.Count)
	}
	past := make(map[string]memory)
	for i := range 2 * maxSeries {
		m := memory{Fingerprint: fmt.Sprintf("%012x", i)}
		m.fold(&record{Entry: Entry{ID: report(now.Add(time.Duration(i)*time.Second), i).ID}})
		past[m.Fingerprint] = m
	}
	if err := a.saveSeries(past, nil); err != nil || len(past) != maxSeries || past[fmt.Sprintf("%012x", 2*maxSeries-1)].Count != 1 {
		t.Errorf("%d series, %v", len(past), err)
	}
	if info, err := os.Stat(filepath.Join(a.dir, indexFile)); err != nil || info.Size() > 400_000 {
		t.Errorf("the index: %v, %v", info, err)
	}
	// A damaged line costs its series.
	b, _ := os.ReadFile(filepath.Join(a.dir, seriesFile))
	b[len(b)-10] ^= 1
	os.WriteFile(filepath.Join(a.dir, seriesFile), b, 0o640)
	a = again(t, a)
	if d := a.Damaged(); len(d) != 1 || !strings.Contains(d[0], "1 line of the memory") || len(a.past) != maxSeries-1 {
		t.Errorf("%q, %d series", d, len(a.past))
	}
}

func TestAge(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir()})
	for i := range 40 {
		add(t, a, report(now.Add(-time.Duration(i)*day), 1))
	}
	a.Close()
	a.o.Age = 10*day + time.Hour
	// A clock that is wrong for a moment does not cost all.
	a = open(t, a.o)
	if n := len(list(t, a, Query{})); n != 40-maxAged {
		t.Errorf("%d are kept", n)
	}
	if err := a.Prune(); err != nil {
		t.Fatal(err)
	}
	if n := len(list(t, a, Query{})); n != 11 {
		t.Errorf("%d are kept", n)
	}
	if s := a.Series(); s[0].Count != 40 || s[0].Kept != 11 {
		t.Errorf("%+v", s)
	}
	future := report(now.Add(1000*day), 1)
	add(t, a, future)
	if got := list(t, a, Query{Limit: 1}); got[0] != future.ID {
		t.Errorf("one of a wrong clock: %q", got)
	}
}

func TestOneWriter(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir()})
	r := report(now, 1)
	add(t, a, r)
	if _, err := Open(Options{Dir: a.dir, Jobs: noJobs}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second writer: %v", err)
	}
	if err := os.Mkdir(filepath.Join(a.dir, "."+r.ID+newSuffix), 0o750); err != nil {
		t.Fatal(err)
	}
	reader := open(t, Options{Dir: a.dir, ReadOnly: true})
	if got := list(t, reader, Query{}); len(got) != 1 {
		t.Errorf("a reader beside it: %q", got)
	}
	if _, err := os.Stat(filepath.Join(a.dir, "."+r.ID+newSuffix)); err != nil {
		t.Error("a reader removed what is being written")
	}
	if err := reader.Add(r, nil); err == nil {
		t.Error("a reader wrote")
	}
	if err := reader.Prune(); err == nil {
		t.Error("a reader pruned")
	}
	a.Close()
	if err := a.Add(r, nil); err == nil || errors.Is(err, ErrKept) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := Open(Options{Dir: filepath.Join(a.dir, "absent"), ReadOnly: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, err := Open(Options{Dir: filepath.Join(a.dir, indexFile, "x")}); err == nil {
		t.Error("a file is taken for a directory")
	}
}

// Lists come from memory: with thousands of reports, without one file.
func TestListReadsNoFiles(t *testing.T) {
	dir := t.TempDir()
	a := open(t, Options{Dir: dir})
	const n = 3000
	a.mu.Lock()
	for i := range n { // added without their files
		r := report(now.Add(time.Duration(i-n)*time.Minute), i%20)
		e := recordOf(&r)
		e.Files = []string{"json"}
		a.records[r.ID] = e
		a.ids = append(a.ids, r.ID)
	}
	a.mu.Unlock()
	a.write.Lock() // and a writer that hangs in the disk
	defer a.write.Unlock()
	if got := list(t, a, Query{Since: now.Add(-7 * day)}); len(got) != n {
		t.Errorf("%d", len(got))
	}
	if got := list(t, a, Query{Since: now.Add(-7 * day), Limit: 50}); len(got) != 50 || cap(got) > 200 {
		t.Errorf("%d", len(got))
	}
	if s := a.Series(); len(s) != 20 {
		t.Errorf("%d series", len(s))
	}
	if _, err := a.Find(report(now.Add(-time.Minute), 19).ID); err != nil {
		t.Error(err)
	}
}

// Opening reads the index and no report that it knows.
func TestOpenTrustsItsIndex(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir()})
	r := report(now, 1)
	add(t, a, r)
	info, err := os.Stat(a.file(r.ID, "json"))
	if err != nil {
		t.Fatal(err)
	}
	// Would it be read, it would be found damaged.
	if err := os.WriteFile(a.file(r.ID, "json"), make([]byte, info.Size()), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(a.file(r.ID, "json"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if a = again(t, a); len(list(t, a, Query{})) != 1 {
		t.Error("the report was read")
	}
	if err := os.Chtimes(a.file(r.ID, "json"), now, now); err != nil {
		t.Fatal(err)
	}
	if a = again(t, a); len(list(t, a, Query{})) != 0 {
		t.Error("a file that changed was not read")
	}
}

func TestFullAndReadOnlyDisks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small filesystem needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("archive", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting a small filesystem: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	a := open(t, Options{Dir: filepath.Join(dir, "reports")})
	first := report(now, 1)
	if err := a.Add(first, with(first, "frz")); err != nil {
		t.Fatal(err)
	}
	intact := func(what string) {
		t.Helper()
		if _, err := a.Report(first.ID); err != nil {
			t.Errorf("%s: what was there: %v", what, err)
		}
		left, _ := os.ReadDir(a.dir)
		for _, f := range left {
			if strings.HasPrefix(f.Name(), ".") {
				t.Errorf("%s: %s is left", what, f.Name())
			}
		}
	}
	// A large file fails, and the report itself has room.
	big := report(now.Add(time.Second), 1)
	err := a.Add(big, func(dir string) ([]string, error) {
		return nil, os.WriteFile(filepath.Join(dir, big.ID+".frz"), make([]byte, 1<<20), 0o640)
	})
	if !errors.Is(err, ErrKept) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a file without room: %v", err)
	}
	if _, err := a.Report(big.ID); err != nil {
		t.Errorf("the report whose file had no room: %v", err)
	}
	intact("a file without room")
	// Nothing has room.
	fill := filepath.Join(dir, "fill")
	if os.WriteFile(fill, make([]byte, 1<<20), 0o600) == nil {
		t.Fatal("the filesystem is not full")
	}
	r := report(now.Add(2*time.Second), 1)
	if err := a.Add(r, nil); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("a full disk: %v", err)
	}
	intact("a full disk")
	if got := list(t, a, Query{}); len(got) != 2 {
		t.Errorf("a full disk: listed %q", got)
	}
	a = again(t, a)
	intact("opened on a full disk")
	// Giving up the old ones needs room for what is remembered of them.
	a.o.Bytes = 10
	if err := a.Prune(); !errors.Is(err, syscall.ENOSPC) || len(list(t, a, Query{})) != 2 {
		t.Errorf("prune on a full disk: %v", err)
	}
	intact("prune on a full disk")
	a.o.Bytes = DefaultBytes
	os.Remove(fill)
	add(t, a, r)

	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	r = report(now.Add(3*time.Second), 1)
	if err := a.Add(r, nil); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "mount it writable") {
		t.Errorf("a read-only disk: %v", err)
	}
	a = again(t, a)
	intact("opened on a read-only disk")
	if got := list(t, a, Query{}); len(got) != 3 {
		t.Errorf("a read-only disk: listed %q", got)
	}
	remount(0)
	add(t, a, r)
}

func TestManyAtOnce(t *testing.T) {
	a := open(t, Options{Dir: t.TempDir(), Bytes: 60_000})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			for i := range 25 {
				r := report(now.Add(time.Duration(w*100+i)*time.Second), w)
				if err := a.Add(r, with(r, "frz")); err != nil {
					t.Error(err)
				}
			}
		}()
		go func() {
			defer wg.Done()
			for range 50 {
				entries, _ := a.List(Query{})
				for _, e := range entries[:min(len(entries), 3)] {
					if _, err := a.Report(e.ID); err != nil && !errors.Is(err, ErrNotFound) {
						t.Error(err)
					}
				}
				a.Series()
				a.Stats()
			}
		}()
	}
	wg.Wait()
	count := 0
	for _, s := range a.Series() {
		count += s.Count
	}
	if count != 100 {
		t.Errorf("%d counted", count)
	}
}

func FuzzLines(f *testing.F) {
	r := report(now, 1)
	e := recordOf(&r)
	e.Files = []string{"json"}
	f.Add([]byte("garbage\n\n"))
	f.Add(appendLine(nil, []byte(`{"id":"20261130T031000.123Z-deadbeef","fingerprint":"000000000001","files":["json"],"size":1,"bytes":2}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseLines(b, func(text []byte) error { _, err := parseRecord(text); return err })
		// The lines of anything are the lines that were written.
		whole := appendLine(append(bytes.Clone(b), '\n'), []byte("x"))
		n := 0
		parseLines(whole, func(text []byte) error {
			if string(text) == "x" {
				n++
			}
			return nil
		})
		if n == 0 {
			t.Error("a whole line behind garbage is lost")
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"id":"20261130T031000.123Z-deadbeef","fingerprint":"000000000001","who":"\u001b[2J","files":["json"],"size":1,"bytes":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err == nil && (!validID.MatchString(r.ID) || strings.ContainsAny(r.Who+r.Headline, "\x1b\n")) {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzFind(f *testing.F) {
	a, err := Open(Options{Dir: f.TempDir(), Jobs: noJobs})
	if err != nil {
		f.Fatal(err)
	}
	r := report(now, 1)
	if err := a.Add(r, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(r.ID, "json")
	f.Add("../../etc/passwd", "../x")
	f.Fuzz(func(t *testing.T, id, ext string) {
		p, err := a.Path(id, ext)
		if err == nil && p != a.file(r.ID, "json") {
			t.Errorf("%q %q: %q", id, ext, p)
		}
	})
}

// BenchmarkWeek opens and lists 1,000 reports of 100 KB that are in the index.
func BenchmarkWeek(b *testing.B) {
	dir := b.TempDir()
	const n = 1000
	for i := range n {
		r := report(now.Add(time.Duration(i-n)*2*time.Minute), i%200)
		r.Timeline = make([]freezeframe.TimelineItem, 600)
		for j := range r.Timeline {
			r.Timeline[j] = freezeframe.TimelineItem{At: r.Stall.Start, What: "kernel_log", Text: "a line of the kernel's log that says what went wrong, and where, and when"}
		}
		text, err := json.Marshal(r)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, r.ID), 0o750); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, r.ID, r.ID+".json"), text, 0o640); err != nil {
			b.Fatal(err)
		}
	}
	o := Options{Dir: dir, Bytes: 4 << 30, Jobs: noJobs}
	start := time.Now()
	open(b, o).Close()
	b.Logf("%d reports read without an index: %v", n, time.Since(start))
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			open(b, o).Close()
		}
	})
	a := open(b, o)
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if got, err := a.List(Query{Since: now.Add(-7 * day)}); err != nil || len(got) != n {
				b.Fatalf("%d, %v", len(got), err)
			}
		}
	})
	b.Run("series", func(b *testing.B) {
		for b.Loop() {
			clear(a.judged)
			if got := a.Series(); len(got) != 200 {
				b.Fatal(len(got))
			}
		}
	})
}
