package recorder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"freezeframe"
)

// machine records what can be checked, in a time of its own: every value
// follows from the moment of its reading.
type machine struct {
	t     testing.TB
	ring  *Ring
	mu    sync.Mutex
	clock freezeframe.Clock
	rows  int           // of the source task
	every time.Duration // between two readings

	writers [freezeframe.Lanes]*Writer
	table   freezeframe.Table
	n       int
}

const machineStep = 250 * time.Millisecond

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, clock: freezeframe.Clock{Mono: 1000e9, WallNanos: 1_800_000_000e9}, rows: 30, every: machineStep}
	m.restart()
	return m
}

// restart gives it another ring: another run.
func (m *machine) restart() {
	m.ring = testRing(MinBytes)
	m.ring.Describe(freezeframe.HostReport{Name: "host"}, "v1")
	m.writers = [freezeframe.Lanes]*Writer{
		mustWriter(m.t, m.ring, testSource("one", "", freezeframe.Fast, freezeframe.Counter, freezeframe.Gauge)),
		mustWriter(m.t, m.ring, testSource("task", "task", freezeframe.Tasks, freezeframe.Counter, freezeframe.Text, freezeframe.Gauge)),
		mustWriter(m.t, m.ring, testSource("records", "record", freezeframe.Slow, freezeframe.Gauge)),
	}
}

func (m *machine) now() freezeframe.Clock {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clock
}

func (m *machine) wall() time.Time {
	c := m.now()
	return c.Wall(c.Mono)
}

// step makes a reading of each source, for as long as is asked.
func (m *machine) step(d time.Duration) {
	for end := m.now().Mono.Add(d); m.now().Mono < end; {
		m.mu.Lock()
		m.clock.Mono = m.clock.Mono.Add(m.every)
		m.clock.WallNanos += int64(m.every)
		at := m.clock.Mono
		m.mu.Unlock()
		for lane, w := range m.writers {
			t := &m.table
			t.Reset()
			t.Due, t.At = at-1, at
			switch lane {
			case 0:
				row := t.Row(0, 2)
				row[0], row[1] = uint64(at), uint64(at)*0x9e3779b97f4a7c15
			case 1:
				for i := range m.rows {
					row := t.Row(freezeframe.Key(i), 3)
					if i%10 == 0 { // the others sleep
						row[0] = uint64(at)
						row[1] = m.ring.Texts().Lane(freezeframe.Tasks).Intern(fmt.Appendf(nil, "row %d at %d", i, at/60e9))
					}
					row[2] = uint64(i)
				}
			case 2:
				if m.n%8 == 0 {
					t.Row(freezeframe.Key(at), 1)[0] = uint64(at)
				}
			}
			w.Append(t)
		}
		m.n++
	}
}

// checkReadings returns the moments of a source's readings, each of which must
// be right.
func checkReadings(t testing.TB, rec *Recording, name string) (at []freezeframe.Instant) {
	t.Helper()
	s := rec.Series(name, freezeframe.Span{Start: 0, End: 1 << 62})
	for i := range s.Tables {
		table := &s.Tables[i]
		if i > 0 && table.At <= s.Tables[i-1].At {
			t.Fatalf("%s: the reading of %d follows that of %d", name, table.At, s.Tables[i-1].At)
		}
		at = append(at, table.At)
		for row, key := range table.Keys {
			v, ok := table.Values(row, len(s.Source.Columns)), true
			switch name {
			case "one":
				ok = v[0] == uint64(table.At) && v[1] == uint64(table.At)*0x9e3779b97f4a7c15
			case "task":
				ok = v[2] == uint64(key) && (key%10 != 0 || v[0] == uint64(table.At) && rec.Text(v[1]) == fmt.Sprintf("row %d at %d", key, table.At/60e9))
			case "records":
				ok = v[0] == uint64(table.At) && key == freezeframe.Key(table.At)
			}
			if !ok {
				t.Fatalf("%s: row %d of the reading of %d is %v (%q)", name, row, table.At, v, rec.Text(v[min(1, len(v)-1)]))
			}
		}
	}
	return at
}

// box opens a box of the machine and its follower, which a test drives itself.
func (m *machine) box(o BoxOptions) (*Box, *follower, *Unclean) {
	m.t.Helper()
	b, unclean, err := openBox(o, m.now)
	if err != nil {
		m.t.Fatal(err)
	}
	b.haste = true
	f := &follower{box: b, ring: m.ring}
	m.t.Cleanup(f.close)
	return b, f, unclean
}

func (m *machine) flush(f *follower) {
	m.t.Helper()
	if err := f.flush(); err != nil {
		m.t.Fatal(err)
	}
}

// record goes on for a while with a flush every three seconds.
func (m *machine) record(f *follower, d time.Duration) {
	m.t.Helper()
	m.recordEvery(f, d, 3*time.Second)
}

func (m *machine) recordEvery(f *follower, d, sync time.Duration) {
	m.t.Helper()
	for end := m.now().Mono.Add(d); m.now().Mono < end; {
		m.step(sync)
		m.flush(f)
	}
}

// crash ends a run without a word.
func crash(b *Box) {
	b.locked.Close()
}

func pinBox(t testing.TB, b *Box, start, end time.Time) []*Recording {
	t.Helper()
	recs, err := b.Pin(start, end)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		rec.tables(0)
		if len(rec.notes) > 0 {
			t.Fatal(rec.notes)
		}
	}
	return recs
}

// pinOne returns the one recording that there is between two moments.
func pinOne(t testing.TB, b *Box, start, end time.Time) *Recording {
	t.Helper()
	recs := pinBox(t, b, start, end)
	if len(recs) != 1 {
		t.Fatalf("%d recordings, want one", len(recs))
	}
	return recs[0]
}

// complete checks that every reading between two moments is there.
func complete(t testing.TB, rec *Recording, from, to freezeframe.Instant) {
	t.Helper()
	for _, name := range []string{"one", "task", "records"} {
		have := map[freezeframe.Instant]bool{}
		for _, at := range checkReadings(t, rec, name) {
			have[at] = true
		}
		for at := from; at <= to; at = at.Add(machineStep) {
			if !have[at] {
				t.Fatalf("%s: no reading of %v (from %v to %v, %d in all)", name, at, from, to, len(have))
			}
		}
	}
}

func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".frz") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestBoxHoldsEveryReading(t *testing.T) {
	m := newMachine(t)
	begin := m.wall()
	b, f, unclean := m.box(BoxOptions{Dir: t.TempDir()})
	if unclean != nil {
		t.Errorf("the first run found %+v", unclean)
	}
	from := m.now().Mono.Add(machineStep)
	for i := range 5 {
		m.ring.AddEvent(freezeframe.Event{Kind: freezeframe.EventKernelLog, At: m.now().Mono, Text: fmt.Sprint("line ", i)})
		m.record(f, 45*time.Second)
	}
	// While it is being written as well as afterwards.
	for _, sealed := range []bool{false, true} {
		if sealed {
			f.seal()
		}
		rec := pinOne(t, b, begin, m.wall())
		complete(t, rec, from, m.now().Mono)
		if len(rec.Events) != 5 || rec.Events[4].Text != "line 4" {
			t.Errorf("events: %+v", rec.Events)
		}
		if rec.Host.Name != "host" || rec.Tool != "v1" {
			t.Errorf("host %+v, tool %q", rec.Host, rec.Tool)
		}
	}
	names := files(t, b.o.Dir)
	if len(names) < 4 || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, ".open.") }) {
		t.Errorf("segments: %q", names)
	}
	for _, name := range names {
		rec, err := ReadFile(filepath.Join(b.o.Dir, name))
		if err != nil {
			t.Errorf("by itself: %v", err)
			continue
		}
		at := checkReadings(t, rec, "task")
		if len(at) < 100 || !rec.Span.Contains(at[0]) || !rec.Span.Contains(at[len(at)-1]) {
			t.Errorf("%s: %d readings, span %+v", name, len(at), rec.Span)
		}
	}
	st := b.Stats()
	if st.Err != "" || st.Segments != len(names) || st.GapCount != 0 || !st.Newest.After(m.wall().Add(-time.Second)) || st.Written < uint64(st.Bytes)*9/10 {
		t.Errorf("stats: %+v", st)
	}
}

func TestBoxOfSeveralRunsAndClocks(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	m.record(f, time.Minute)
	f.seal()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	m.restart()
	m.step(time.Minute)
	b, f, unclean := m.box(BoxOptions{Dir: dir})
	if unclean != nil {
		t.Errorf("a clean end was taken for %+v", unclean)
	}
	m.record(f, time.Minute)
	m.mu.Lock()
	m.clock.WallNanos += int64(time.Hour)
	m.mu.Unlock()
	from := m.now().Mono.Add(machineStep)
	m.record(f, time.Minute)
	recs := pinBox(t, b, begin, m.wall())
	if len(recs) != 3 {
		t.Fatalf("%d recordings, want one of the first run and two of the other", len(recs))
	}
	for i, rec := range recs {
		if n := len(checkReadings(t, rec, "one")); n < 230 {
			t.Errorf("recording %d has %d readings", i, n)
		}
		if i > 0 && rec.Clock.Wall(rec.Span.Start).Before(recs[i-1].Clock.Wall(recs[i-1].Span.Start)) {
			t.Error("not in order")
		}
	}
	complete(t, recs[2], from, m.now().Mono)
	if got := recs[2].Clock.Wall(recs[2].readings().End); got.Sub(m.wall()).Abs() > time.Second {
		t.Errorf("the last reading is of %v, the clock shows %v", got, m.wall())
	}
	if recs := pinBox(t, b, begin.Add(-time.Hour), begin.Add(-time.Minute)); len(recs) != 0 {
		t.Errorf("%d recordings of a time before any", len(recs))
	}
}

func TestBoxRecognisesAnUncleanEnd(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	m.record(f, 6*time.Minute)
	stall := &freezeframe.Stall{Span: freezeframe.Span{Start: m.now().Mono - 5e9, End: m.now().Mono}, Ongoing: true,
		Symptoms: []freezeframe.Symptom{{Probe: "fsync", Target: "/"}}}
	f.open = func() *freezeframe.Stall { return stall }
	m.record(f, 3*time.Second)
	last := m.wall()
	m.step(2 * time.Second) // never flushed
	crash(b)

	m.restart()
	m.step(time.Minute)
	b2, _, u := m.box(BoxOptions{Dir: dir})
	if u == nil || u.Recording == nil {
		t.Fatalf("unclean: %+v", u)
	}
	if !u.SameBoot || u.BootID != b.boot || !u.Last.Equal(last) {
		t.Errorf("same boot %v, last %v, want %v", u.SameBoot, u.Last, last)
	}
	if len(u.Recording.Stalls) != 1 || u.Recording.Stalls[0].Symptoms[0].Probe != "fsync" || !u.Recording.Stalls[0].Ongoing {
		t.Errorf("stalls %+v", u.Recording.Stalls)
	}
	at := checkReadings(t, u.Recording, "task")
	if span := at[len(at)-1].Sub(at[0]); span < lastMinutes || span > 2*lastMinutes {
		t.Errorf("readings of %v", span)
	}
	if u.Recording.Span.Length() != lastMinutes {
		t.Errorf("span %+v", u.Recording.Span)
	}
	if names := files(t, dir); slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, ".open.") }) {
		t.Errorf("an open segment stayed: %q", names)
	}
	crash(b2)

	// Another boot; then a lost marker; then nothing but the marker.
	var mark marker
	path := filepath.Join(dir, markerName)
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &mark) != nil || mark.Clean || mark.PID != os.Getpid() {
		t.Fatalf("marker %s: %v", data, err)
	}
	mark.Boot, mark.Run = "another", b.run
	if err := saveJSON(path, &mark); err != nil {
		t.Fatal(err)
	}
	b3, _, u := m.box(BoxOptions{Dir: dir})
	if u == nil || u.SameBoot || u.BootID != "another" || u.Recording == nil || u.Missing < time.Minute {
		t.Errorf("unclean: %+v", u)
	}
	crash(b3)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b4, _, u := m.box(BoxOptions{Dir: dir})
	if u == nil || u.BootID != b.boot || u.Recording == nil {
		t.Errorf("unclean: %+v", u)
	}
	crash(b4)
	for _, name := range files(t, dir) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	b5, _, u := m.box(BoxOptions{Dir: dir})
	if u == nil || u.Recording != nil || !u.Last.IsZero() {
		t.Errorf("unclean: %+v", u)
	}
	if err := b5.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, u := m.box(BoxOptions{Dir: dir}); u != nil {
		t.Errorf("after a clean end: %+v", u)
	}
}

func TestBoxIsForOneProcess(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	b, _, _ := m.box(BoxOptions{Dir: dir})
	if _, _, err := OpenBox(BoxOptions{Dir: dir}); !errors.Is(err, errTaken) {
		t.Errorf("taken twice: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenBox(BoxOptions{}); err == nil {
		t.Error("no directory is no error")
	}
	if _, _, err := OpenBox(BoxOptions{Dir: dir, Bytes: -1}); err == nil {
		t.Error("a negative size is no error")
	}
}

// cutFile is the file of a power cut: what of the last flush reached the disk
// is any part of it.
func TestBoxPowerCutAtEveryByte(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	from := m.now().Mono.Add(machineStep)
	m.record(f, 30*time.Second)
	path := filepath.Join(dir, f.to.segment.file)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	synced := m.now().Mono
	m.ring.AddEvent(freezeframe.Event{Kind: "last", At: synced})
	m.record(f, 3*time.Second)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(whole, before) || len(whole) == len(before) {
		t.Fatal("a flush changed what was there")
	}
	crash(b)
	for n := len(before); n <= len(whole); n++ {
		for _, tail := range [][]byte{nil, make([]byte, len(whole)-n)} { // a file that was made longer, but not filled
			rec, err := decode(append(slices.Clone(whole[:n]), tail...), false)
			if err != nil {
				t.Fatalf("cut at %d of %d: %v", n, len(whole), err)
			}
			last := synced
			if n == len(whole) {
				last = m.now().Mono
			}
			complete(t, rec, from, last)
		}
	}
	// And any one page of the last flush may be missing.
	for at := len(before); at < len(whole); at += 97 {
		data := slices.Clone(whole)
		clear(data[at:min(at+512, len(data))])
		rec, _ := decode(data, false)
		complete(t, rec, from, synced)
	}
}

// Damage anywhere in one segment leaves all that is in the others.
func TestBoxDamageStaysInItsSegment(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	m.record(f, 5*time.Minute)
	f.seal()
	crash(b)
	names := files(t, dir)
	if len(names) != 5 {
		t.Fatalf("%d segments", len(names))
	}
	var holds [5][]freezeframe.Instant
	for i, name := range names {
		rec, err := ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if holds[i] = checkReadings(t, rec, "task"); len(holds[i]) < 230 {
			t.Fatalf("segment %d holds %d readings", i, len(holds[i]))
		}
	}
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 4))
		hit := r.IntN(len(names))
		path := filepath.Join(dir, names[hit])
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := slices.Clone(good)
		switch r.IntN(4) {
		case 0:
			bad = bad[:r.IntN(len(bad))]
		case 1:
			for range 1 + r.IntN(20) {
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			}
		case 2:
			at := r.IntN(len(bad))
			for i := at; i < min(at+r.IntN(8192), len(bad)); i++ {
				bad[i] = byte(r.Uint32())
			}
		case 3:
			at := r.IntN(len(bad))
			bad = slices.Delete(bad, at, min(at+r.IntN(5000), len(bad)))
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		b, _, err := openBox(BoxOptions{Dir: dir}, m.now)
		if err != nil {
			t.Fatal(err)
		}
		recs, err := b.Pin(begin, m.wall())
		crash(b)
		have := map[freezeframe.Instant]bool{}
		for _, rec := range recs {
			for _, at := range checkReadings(t, rec, "task") {
				have[at] = true
			}
		}
		for i := range holds {
			for _, at := range holds[i] {
				if i != hit && !have[at] {
					t.Fatalf("seed %d: segment %d is damaged, and the reading of %d in segment %d is gone (%v)", seed, hit, at, i, err)
				}
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// fault is a file that fails or hangs.
type fault struct {
	mu   sync.Mutex
	err  error
	hang chan struct{}
}

type faultyFile struct {
	boxFile
	*fault
}

func (f *fault) check() error {
	f.mu.Lock()
	err, hang := f.err, f.hang
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return err
}

func (f faultyFile) Write(b []byte) (int, error) {
	if err := f.check(); err != nil {
		n, _ := f.boxFile.Write(b[:len(b)/2])
		return n, err
	}
	return f.boxFile.Write(b)
}

func (f faultyFile) Sync() error {
	if err := f.check(); err != nil {
		return err
	}
	return f.boxFile.Sync()
}

func (f *fault) set(err error, hang chan struct{}) {
	f.mu.Lock()
	f.err, f.hang = err, hang
	f.mu.Unlock()
}

func (f *fault) install(b *Box) {
	b.create = func(path string) (boxFile, error) {
		if err := f.check(); errors.Is(err, syscall.EROFS) {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		file, err := createSegment(path)
		if err != nil {
			return nil, err
		}
		return faultyFile{file, f}, nil
	}
}

func TestBoxGoesOnAfterTheDiskFailed(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		m := newMachine(t)
		begin := m.wall()
		b, f, _ := m.box(BoxOptions{Dir: t.TempDir()})
		var disk fault
		disk.install(b)
		from := m.now().Mono.Add(machineStep)
		m.record(f, 100*time.Second)
		disk.set(errno, nil)
		pauses := []time.Duration{}
		for range 8 {
			m.step(3 * time.Second)
			err := f.flush()
			if !errors.Is(err, errno) {
				t.Fatalf("%v: %v", errno, err)
			}
			b.fail(err)
			pauses = append(pauses, f.pause(err, 0))
		}
		if pauses[0] != 3*time.Second || pauses[7] != time.Minute {
			t.Errorf("pauses %v", pauses)
		}
		st := b.Stats()
		if !strings.Contains(st.Err, errno.Error()) || st.Errors < 8 || st.Lag < 24*time.Second {
			t.Errorf("%v: %+v", errno, st)
		}
		if needs := b.Needs(); len(needs) != 1 || needs[0].Err != errno.Error() || needs[0].Fix == "" {
			t.Errorf("%v: told %+v", errno, needs)
		}
		// What was there can be read meanwhile, and afterwards nothing is
		// missing: the ring held it.
		rec := pinOne(t, b, begin, m.wall())
		complete(t, rec, from, from.Add(99*time.Second))
		disk.set(nil, nil)
		m.record(f, 6*time.Second)
		complete(t, pinOne(t, b, begin, m.wall()), from, m.now().Mono)
		if st := b.Stats(); st.Err != "" || st.GapCount != 0 || st.Lag > 3*time.Second {
			t.Errorf("%v: %+v", errno, st)
		}
		if n := len(files(t, b.o.Dir)); n > 4 {
			t.Errorf("%v: %d files", errno, n)
		}
	}
}

// Whoever mounts its filesystem read-only can do so at any moment, is told what
// that costs, and gets all that was recorded meanwhile afterwards.
func TestBoxLetsItsFilesystemBeMadeReadOnly(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("box", mount, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	m := newMachine(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: filepath.Join(mount, "box")})
	from := m.now().Mono.Add(machineStep)
	m.record(f, 100*time.Second)
	if f.to == nil {
		t.Fatal("no segment is open, which is what this is about")
	}
	if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatalf("remount it read-only: %v", err)
	}
	for range 3 {
		m.step(3 * time.Second)
		err := f.flush()
		if !errors.Is(err, syscall.EROFS) {
			t.Fatalf("a read-only filesystem: %v", err)
		}
		b.fail(err)
	}
	if st := b.Stats(); !strings.Contains(st.Err, "read-only") {
		t.Errorf("the status says %q", st.Err)
	}
	if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	m.record(f, 6*time.Second)
	complete(t, pinOne(t, b, begin, m.wall()), from, m.now().Mono)
	if st := b.Stats(); st.Err != "" || st.GapCount != 0 {
		t.Errorf("%+v", st)
	}
}

// An end in order of which the disk does not take the note is noted aside: the next
// start does not say that somebody killed it, unless somebody did.
func TestEndThatTheDiskDoesNotTake(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("box", mount, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT|flags, "size=8m"); err != nil {
			t.Fatal(err)
		}
	}
	m := newMachine(t)
	aside := filepath.Join(t.TempDir(), "ended.json")
	for _, x := range []struct {
		aside         string
		kill, unclean bool
	}{{aside, false, false}, {aside, true, true}, {"", false, true}, {filepath.Join(mount, "ended.json"), false, true}} {
		b, f, _ := m.box(BoxOptions{Dir: filepath.Join(mount, "box"), Aside: x.aside})
		m.record(f, 10*time.Second)
		f.seal()
		remount(syscall.MS_RDONLY)
		m.step(3 * time.Second)
		b.fail(f.flush())
		if x.kill {
			crash(b)
		} else if err := b.Close(); !errors.Is(err, syscall.EROFS) || errors.Is(err, errUnmarked) != x.unclean {
			t.Errorf("%+v: closed with %v", x, err)
		}
		remount(0)
		b, _, unclean := m.box(BoxOptions{Dir: filepath.Join(mount, "box"), Aside: x.aside})
		if (unclean != nil) != x.unclean {
			t.Errorf("%+v: the next start finds %+v", x, unclean)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A power cut costs the pause and two flushes: no more than is promised, on a disk
// that allows it.
func TestFlushesComeSoonerOnASlowDisk(t *testing.T) {
	for _, took := range []time.Duration{0, 400 * time.Millisecond, time.Second, 1500 * time.Millisecond, 2200 * time.Millisecond} {
		f := &follower{box: &Box{o: BoxOptions{Sync: defaultSync}}, durable: took}
		if lost := took + f.pause(nil, took) + took; lost > maxLost || lost < defaultSync {
			t.Errorf("with flushes of %v a power cut costs %v", took, lost)
		}
		// One that is quick again does not make the next one quick.
		f.durable = 0
		if again := f.pause(nil, 0); again+took*3/4 > maxLost {
			t.Errorf("after a flush of %v the next but one comes after %v", took, again)
		}
		// Closing a segment comes out of the pause.
		f = &follower{box: &Box{o: BoxOptions{Sync: defaultSync}}, durable: took / 4}
		if lost := took + f.pause(nil, took) + took/4; lost > max(maxLost, took+breath+took/4) {
			t.Errorf("after %v, %v of them for the segment's end, a power cut costs %v", took, took*3/4, lost)
		}
	}
	f := &follower{box: &Box{o: BoxOptions{Sync: defaultSync}}}
	f.durable = time.Minute
	if p := f.pause(nil, time.Minute); p <= 0 || p > time.Second {
		t.Errorf("a disk that is too slow gets a pause of %v", p)
	}
	f.durable = 0
	for range 20 {
		f.pause(nil, 0)
	}
	if p := f.pause(nil, 0); p != defaultSync {
		t.Errorf("long after, the pause is %v", p)
	}
}

// A disk that hangs for longer than the ring lasts leaves a gap that is told.
func TestBoxTellsWhatItLost(t *testing.T) {
	m := newMachine(t)
	m.rows = 3000
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: t.TempDir()})
	m.record(f, 9*time.Second)
	from := m.now().Mono
	m.ring.AddEvent(freezeframe.Event{Kind: "k", At: from})
	for range 3 * maxEvents { // the newest are kept
		m.ring.events.mu.Lock()
		m.ring.events.keep(m.ring.events.kinds["k"], freezeframe.Event{Kind: "k", At: from}, 100)
		m.ring.events.mu.Unlock()
	}
	for m.ring.lanes[freezeframe.Tasks].written.Load() < 3*MinBytes {
		m.step(time.Second)
	}
	m.flush(f)
	st := b.Stats()
	var lost freezeframe.Span
	events := 0
	for _, g := range st.Gaps {
		if events += g.Events; g.Events == 0 && g.Lane == freezeframe.Tasks {
			lost = g.Span
		}
	}
	if lost.Start != from || lost.Length() < time.Second || events < maxEvents {
		t.Fatalf("gaps %+v", st.Gaps)
	}
	rec := pinOne(t, b, begin, m.wall())
	told := false
	for _, e := range rec.Events {
		told = told || e.Kind == EventBoxGap && e.At == lost.Start && e.End == lost.End && e.Attr("lane") == "tasks"
	}
	if !told {
		t.Error("the segment does not tell of it")
	}
	for _, at := range checkReadings(t, rec, "task") {
		if at > lost.Start && at < lost.End {
			t.Errorf("the reading of %v is there, though %+v is said to be lost", at, lost)
		}
	}
	complete(t, rec, lost.End.Add(2*machineStep).Add(-machineStep), m.now().Mono)
}

// A writer that hangs in the disk is noticed by nobody: neither by the lanes
// nor by who asks.
func TestBoxHangsAlone(t *testing.T) {
	m := newMachine(t)
	b, _, err := OpenBox(BoxOptions{Dir: t.TempDir(), Sync: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var disk fault
	disk.install(b)
	m.clock = b.clock()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		b.Run(ctx, m.ring, func() *freezeframe.Stall { return nil })
	}()
	synced := func() uint64 { return b.Stats().Written }
	wait := func(what string, is func() bool) {
		t.Helper()
		for range 2000 {
			if is() {
				return
			}
			m.step(machineStep)
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("%s never happened", what)
	}
	wait("a flush", func() bool { return synced() > 0 })
	hang := make(chan struct{})
	disk.set(nil, hang)
	m.step(time.Second)
	time.Sleep(50 * time.Millisecond) // it is in the hang by now, or soon
	before := synced()
	for range 50 { // the ring goes around while it hangs
		m.step(20 * time.Second)
		b.Keep(freezeframe.Span{Start: 1, End: 2})
		_ = b.Needs()
		if _, err := b.Pin(time.Now().Add(-time.Hour), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if st := b.Stats(); st.Written > before+1<<20 || m.ring.Stats().Lost != 0 {
		t.Errorf("stats %+v, the ring lost %d readings", st, m.ring.Stats().Lost)
	}
	disk.set(nil, nil)
	close(hang)
	wait("a flush after the hang", func() bool { return synced() > before })
	cancel()
	<-ran
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, unclean, err := OpenBox(b.o); err != nil || unclean != nil {
		t.Errorf("after a clean end: %+v, %v", unclean, err)
	}
}

func TestBoxKeepsItsBounds(t *testing.T) {
	m := newMachine(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: boxDir(t), Bytes: 300 << 10, Age: time.Hour})
	for range 40 {
		m.record(f, 30*time.Second)
		b.bound(m.now())
		if st := b.Stats(); st.Bytes > 300<<10 {
			t.Fatalf("%d bytes", st.Bytes)
		}
	}
	size := int64(0)
	for _, name := range files(t, b.o.Dir) {
		info, err := os.Stat(filepath.Join(b.o.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if st := b.Stats(); size != st.Bytes || !st.Oldest.After(begin) || st.Segments < 2 {
		t.Errorf("%d bytes on disk, stats %+v", size, st)
	}
	// Half an hour with nothing written, and everything closed is too old; a
	// clock that is put forward makes nothing older.
	n := b.Stats().Segments
	m.mu.Lock()
	m.clock.WallNanos += int64(300 * 24 * time.Hour)
	m.mu.Unlock()
	b.bound(m.now())
	if b.Stats().Segments != n {
		t.Error("a step of the wall clock removed a segment")
	}
	m.mu.Lock()
	m.clock.Mono = m.clock.Mono.Add(2 * time.Hour)
	m.mu.Unlock()
	for range n {
		b.bound(m.now())
	}
	if st := b.Stats(); st.Segments > 1 {
		t.Errorf("after two hours: %+v", st)
	}
}

func TestBoxRefusesBelowTheFloor(t *testing.T) {
	m := newMachine(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: t.TempDir()})
	m.record(f, 30*time.Second)
	f.seal()
	before := files(t, b.o.Dir)
	b.o.FreeFloor = 1 << 60
	m.step(3 * time.Second)
	err := f.flush()
	if !errors.Is(err, errFloor) {
		t.Fatal(err)
	}
	b.fail(err)
	if got := files(t, b.o.Dir); !slices.Equal(got, before) {
		t.Errorf("the newest was given up: %q", got)
	}
	if needs := b.Needs(); len(needs) != 1 || needs[0].Err != errFloor.Error() {
		t.Errorf("told %+v", needs)
	}
	// Another hour on, the old one is given up.
	b.o.FreeFloor = 0
	m.step(spared)
	m.record(f, 30*time.Second)
	b.o.FreeFloor = 1 << 60
	if err := f.flush(); !errors.Is(err, errFloor) {
		t.Fatal(err)
	}
	if got := files(t, b.o.Dir); slices.Contains(got, before[0]) || len(got) == 0 {
		t.Errorf("segments %q", got)
	}
	pinBox(t, b, begin, m.wall())
}

// Real filesystems: one that is full, one that became read-only, a directory
// that went away.
func TestBoxOnRealFilesystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	m := newMachine(t)
	m.rows = 2000
	begin := m.wall()
	mount := t.TempDir()
	if err := syscall.Mount("box", mount, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	dir := filepath.Join(mount, "box")
	b, f, _ := m.box(BoxOptions{Dir: dir})
	from := m.now().Mono.Add(machineStep)
	var err error
	last := from
	for range 400 {
		m.step(3 * time.Second)
		if err = f.flush(); err != nil {
			break
		}
		last = m.now().Mono
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a full filesystem: %v", err)
	}
	complete(t, pinOne(t, b, begin, m.wall()), from, last)
	if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	m.step(3 * time.Second)
	if err := f.flush(); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a read-only filesystem: %v", err)
	}
	crash(b)
	// The next start finds it read-only still, reads what is there, and goes on
	// when it can.
	m2 := newMachine(t)
	m2.clock = m.clock
	b, f, unclean := m2.box(BoxOptions{Dir: dir})
	if unclean == nil || unclean.Recording == nil || b.Stats().Err == "" {
		t.Errorf("unclean %+v, stats %+v", unclean, b.Stats())
	}
	if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	m2.record(f, 6*time.Second)
	complete(t, pinOne(t, b, begin, m.wall()), from, last)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	m2.record(f, 70*time.Second)
	if got := files(t, dir); len(got) == 0 {
		t.Error("nothing was written after the directory had gone")
	}
}

// sampleSegment is a small segment that was closed, with parts, events and an
// open stall.
func sampleSegment(t testing.TB) []byte {
	m := newMachine(t)
	dir := t.TempDir()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	m.rows = 3
	f.open = func() *freezeframe.Stall { return &freezeframe.Stall{Ongoing: true} }
	m.ring.AddEvent(freezeframe.Event{Kind: "k", At: m.now().Mono, Text: "text"})
	m.record(f, 6*time.Second)
	f.seal()
	crash(b)
	data, err := os.ReadFile(filepath.Join(dir, files(t, dir)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// While lanes write and the disk is written to, everybody may ask, and the run
// before is thinned. The race detector watches it.
func TestBoxAtOnce(t *testing.T) {
	old := newMachine(t)
	dir := boxDir(t)
	b, f, _ := old.box(BoxOptions{Dir: dir})
	begin := old.wall()
	old.record(f, 13*time.Minute)
	crash(b)

	m := newMachine(t)
	b, unclean, err := OpenBox(BoxOptions{Dir: dir, Sync: 2 * time.Millisecond, Full: time.Second})
	if err != nil || unclean == nil {
		t.Fatal(unclean, err)
	}
	b.haste = true
	m.clock = b.clock()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { b.Run(ctx, m.ring, func() *freezeframe.Stall { return nil }) })
	all.Go(func() {
		for ctx.Err() == nil {
			m.step(5 * time.Second)
			m.ring.AddEvent(freezeframe.Event{Kind: "k", At: m.now().Mono})
			time.Sleep(time.Millisecond)
		}
	})
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				recs, err := b.Pin(begin, old.wall())
				if err != nil || len(recs) != 1 {
					t.Errorf("%d recordings of the run before: %v", len(recs), err)
					return
				}
				if n := len(checkReadings(t, recs[0], "one")); n < 12*6 {
					t.Errorf("%d readings", n)
				}
				// What was just written, too.
				recs, err = b.Pin(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
				if err != nil {
					t.Error(err)
				}
				for _, rec := range recs {
					checkReadings(t, rec, "task")
				}
				b.Keep(freezeframe.Span{Start: m.now().Mono - 1e9, End: m.now().Mono})
				_, _ = b.Stats(), b.Needs()
			}
		})
	}
	for range 1000 {
		if st := b.Stats(); st.Thinned > 0 && st.Written > 100<<10 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	cancel()
	all.Wait()
	if st := b.Stats(); st.Thinned == 0 || st.Written < 100<<10 || st.Errors > 0 {
		t.Errorf("stats %+v, %v", st, b.Needs())
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// boxDir is a directory in memory, for what syncs often.
func boxDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "box")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func FuzzSegmentName(f *testing.F) {
	f.Add("1800000000000.0000001-0000002.1800000000250-1800000060000.full.frz")
	f.Add("1800000000000.0000001-0000001.1800000000250-0000000000000.open.frz")
	f.Add("../x.frz")
	f.Fuzz(func(t *testing.T, name string) {
		if s, ok := parseSegment(name); ok && (s.name() != name || filepath.Base(name) != name) {
			t.Errorf("%q is taken for %q", name, s.name())
		}
	})
}

// Whatever is in a segment, opening, pinning and thinning end well and leave
// the other segments alone.
func FuzzBox(f *testing.F) {
	data := sampleSegment(f)
	f.Add(data)
	f.Add(data[:len(data)/2])
	m := newMachine(f)
	begin := m.wall()
	dir := boxDir(f)
	b, follow, _ := m.box(BoxOptions{Dir: dir})
	m.recordEvery(follow, 2*time.Minute, 5*time.Second)
	follow.seal()
	crash(b)
	good := map[string][]byte{}
	for _, s := range b.segments {
		data, err := os.ReadFile(filepath.Join(dir, s.file))
		if err != nil {
			f.Fatal(err)
		}
		good[s.file] = data
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, mended(data)} {
			dir := boxDir(t)
			for name, data := range good {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			bad := segment{run: b.run, first: 1000, last: 1000, start: b.segments[0].start, level: levelOpen}
			if err := os.WriteFile(filepath.Join(dir, bad.name()), data, 0o600); err != nil {
				t.Fatal(err)
			}
			b, _, err := openBox(BoxOptions{Dir: dir}, m.now)
			if err != nil {
				t.Fatal(err)
			}
			b.haste = true
			before, _ := b.Pin(begin, m.wall()) // what is damaged is told: that is what the other segments are checked for
			if s, err := b.Survey(begin, m.wall()); err != nil || len(s.Passages) == 0 {
				t.Fatalf("the survey: %v, %+v", err, s)
			}
			th := &thinner{box: b}
			for th.step() {
			}
			th.close()
			crash(b)
			n := 0
			for _, rec := range before {
				for _, at := range rec.Series("one", freezeframe.Span{Start: 0, End: 1 << 62}).Tables {
					if at.At > 1000e9 && at.At <= m.now().Mono {
						n++
					}
				}
			}
			if n < 475 {
				t.Fatalf("%d readings of the other segments", n)
			}
		}
	})
}
