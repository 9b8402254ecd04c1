package recorder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"freezeframe"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file of this format version, which must not exist yet")

// sample is a recording of all that a file can hold; the same every time.
func sample(t testing.TB) *Recording {
	t.Helper()
	r := testRing(MinBytes)
	for i, src := range []freezeframe.Source{
		testSource("one", "", freezeframe.Fast, freezeframe.Counter, freezeframe.Gauge),
		testSource("task", "task", freezeframe.Tasks, freezeframe.Text, freezeframe.Counter, freezeframe.Gauge),
		testSource("text", "text", freezeframe.Slow, freezeframe.Text, freezeframe.Counter),
	} {
		src.From, src.Stalled = "/proc/"+src.Name, Tick
		src.Needs = []freezeframe.Need{{What: "read " + src.Name, Lost: "a part of it", Fix: "run as root", Err: "permission denied"}}
		w := mustWriter(t, r, src)
		k := &walk{r: rand.New(rand.NewPCG(7, uint64(i))), src: src, texts: r.Texts()}
		for range 12 {
			table := k.step()
			for row, key := range table.Keys {
				if row > 4 {
					table.Keys, table.Vals = table.Keys[:row], table.Vals[:row*len(src.Columns)]
					break
				}
				_ = key
			}
			w.Append(table)
		}
	}
	r.AddEvent(freezeframe.Event{Kind: freezeframe.EventKernelLog, At: 200e6, Text: "\x1b[31m\xff hostile", Attrs: []freezeframe.Attr{{Name: "level", Value: "3"}}})
	r.AddEvent(freezeframe.Event{Kind: freezeframe.EventMissed, At: 100e6, End: 300e6, PID: 7})
	r.AddNeed(freezeframe.Need{What: "lock memory"})
	r.Describe(freezeframe.HostReport{Name: "host", Kernel: "6.1", CPUs: 2, Boot: time.Unix(1, 0).UTC()}, "v1")
	rec := pinAll(t, r)
	rec.Clock = freezeframe.Clock{Mono: 5, WallNanos: 1_700_000_000e9}
	rec.Span = freezeframe.Span{Start: 10e6, End: 600e6}
	rec.Stalls = []freezeframe.Stall{{
		Span: freezeframe.Span{Start: 200e6, End: 400e6}, Ongoing: true,
		Symptoms: []freezeframe.Symptom{{Probe: "fsync", Target: "/", Span: freezeframe.Span{Start: 200e6, End: 400e6}, Worst: 2e8, Count: 1, Quality: 1, Victims: []freezeframe.Victim{{PID: 1, TID: 2, Comm: "sh"}}}},
	}}
	return rec
}

// content is all that a reader can get from a recording.
type content struct {
	Span    freezeframe.Span
	Clock   freezeframe.Clock
	Host    freezeframe.HostReport
	Tool    string
	Sources []freezeframe.Source
	Needs   []freezeframe.Need
	Stalls  []freezeframe.Stall
	Events  []freezeframe.Event
	Tables  [][]freezeframe.Table
	Texts   []string
}

func contents(rec *Recording) content {
	c := content{rec.Span, rec.Clock, rec.Host, rec.Tool, rec.Sources, rec.Needs, rec.Stalls, rec.Events, nil, nil}
	seen := map[uint64]bool{}
	text := func(id uint64) {
		if !seen[id] {
			seen[id] = true
			c.Texts = append(c.Texts, rec.Text(id))
		}
	}
	for i, src := range rec.Sources {
		var tables []freezeframe.Table
		for _, t := range rec.tables(i) {
			tables = append(tables, clone(&t))
			for row, key := range t.Keys {
				if src.Key == "text" {
					text(uint64(key))
				}
				for col, v := range t.Values(row, len(src.Columns)) {
					if src.Columns[col].Kind == freezeframe.Text {
						text(v)
					}
				}
			}
		}
		c.Tables = append(c.Tables, tables)
	}
	return c
}

func encode(t testing.TB, rec *Recording) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, rec); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFileHoldsTheWholeRecording(t *testing.T) {
	rec := sample(t)
	want := contents(rec)
	if len(want.Texts) < 10 || len(want.Tables[1]) != 12 || len(want.Events) != 2 {
		t.Fatalf("the sample is too poor: %+v", want)
	}
	got, err := Read(bytes.NewReader(encode(t, rec)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, contents(got)); diff != "" {
		t.Errorf("(-live +read):\n%s", diff)
	}
	if again := encode(t, got); !bytes.Equal(again, encode(t, rec)) {
		t.Error("a recording that was read is written differently")
	}
	if n := len(got.Missing()); n != 4 {
		t.Errorf("%d needs, want 4: %+v", n, got.Missing())
	}
}

// Files of every version that was ever released must stay readable.
func TestGolden(t *testing.T) {
	const path = "testdata/v1.frz"
	if *update {
		if _, err := os.Stat(path); err == nil {
			t.Fatal("a released version's file is never rewritten; delete it yourself before the release if you must")
		}
		if err := os.WriteFile(path, encode(t, sample(t)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(sample(t)), contents(got)); diff != "" {
		t.Errorf("(-made now +golden):\n%s", diff)
	}
}

func TestTruncatedAtEveryByte(t *testing.T) {
	file := encode(t, sample(t))
	whole, err := Read(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	all := contents(whole)
	chunks, most := 0, 0
	for n := range file {
		rec, err := Read(bytes.NewReader(file[:n]))
		if err == nil {
			t.Fatalf("cut at %d: no error", n)
		}
		if n < len(fileMagic) {
			if !errors.Is(err, ErrNotARecording) {
				t.Fatalf("cut at %d: %v", n, err)
			}
			continue
		}
		if !errors.Is(err, ErrDamaged) || rec == nil {
			t.Fatalf("cut at %d: %v, recording %v", n, err, rec != nil)
		}
		if chunks = len(rec.blocks); chunks < most {
			t.Fatalf("cut at %d: %d chunks, though a shorter file had %d", n, chunks, most)
		}
		most = chunks
		checkPart(t, all, rec)
	}
	if most != len(whole.blocks) {
		t.Errorf("%d chunks at the end", most)
	}
}

// checkPart fails when a damaged recording holds anything that the whole one
// does not.
func checkPart(t *testing.T, all content, rec *Recording) {
	t.Helper()
	got := contents(rec)
	for i, tables := range got.Tables {
		if len(tables) != 0 && !cmp.Equal(tables, all.Tables[i]) {
			t.Fatalf("source %d has other tables", i)
		}
	}
	for _, e := range got.Events {
		if !slices.ContainsFunc(all.Events, func(o freezeframe.Event) bool { return cmp.Equal(e, o) }) {
			t.Fatalf("another event: %+v", e)
		}
	}
	if len(got.Sources) > 0 && !cmp.Equal(got.Stalls, all.Stalls) {
		t.Fatal("other stalls")
	}
}

func TestEveryByteFlipped(t *testing.T) {
	file := encode(t, sample(t))
	whole, err := Read(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	all := contents(whole)
	for n := range file {
		for _, bit := range []byte{1 << (n % 8)} {
			bad := slices.Clone(file)
			bad[n] ^= bit
			rec, err := Read(bytes.NewReader(bad))
			if !errors.Is(err, ErrDamaged) || rec == nil {
				t.Fatalf("byte %d ^ %#x: %v", n, bit, err)
			}
			if len(rec.blocks) < len(whole.blocks)-1 {
				t.Fatalf("byte %d ^ %#x: one damaged byte cost %d of %d chunks", n, bit, len(whole.blocks)-len(rec.blocks), len(whole.blocks))
			}
			if len(rec.Sources) != len(whole.Sources) {
				t.Fatalf("byte %d ^ %#x: the sources are lost", n, bit)
			}
			checkPart(t, all, rec)
		}
	}
}

func TestDamageIsNamed(t *testing.T) {
	rec := sample(t)
	file := encode(t, rec)
	second := bytes.Index(file[bytes.Index(file, []byte(tagChunk))+1:], []byte(tagChunk)) + bytes.Index(file, []byte(tagChunk)) + 1
	file[second+40] ^= 1
	got, err := Read(bytes.NewReader(file))
	if err == nil || !strings.Contains(err.Error(), "readings of lane tasks from 22:13:20") {
		t.Errorf("error: %v", err)
	}
	if len(got.tables(0)) == 0 || len(got.tables(1)) != 0 || len(got.tables(2)) == 0 {
		t.Error("the other lanes' readings are not there")
	}
	missing := got.Missing()
	if last := missing[len(missing)-1]; !strings.Contains(last.Lost, "lane tasks") {
		t.Errorf("what is lost does not stand under missing: %+v", last)
	}
}

// remade returns the file with a change to its first 12 bytes and a checksum
// that fits.
func remade(file []byte, change func([]byte)) []byte {
	file = slices.Clone(file)
	change(file)
	binary.LittleEndian.PutUint32(file[12:], crc32.Checksum(file[:12], castagnoli))
	return file
}

func TestNewerVersion(t *testing.T) {
	file := remade(encode(t, sample(t)), func(b []byte) { b[8] = 2 })
	rec, err := Read(bytes.NewReader(file))
	if rec != nil || err == nil || !strings.Contains(err.Error(), "written by a newer freezeframe (format 2); this one reads 1") {
		t.Errorf("got %v, %v", rec, err)
	}
}

func TestVersionThatNeverWas(t *testing.T) {
	file := remade(encode(t, sample(t)), func(b []byte) { b[8] = 0 })
	rec, err := Read(bytes.NewReader(file))
	if rec != nil || err == nil || !strings.Contains(err.Error(), "format 0 was never written") {
		t.Errorf("got %v, %v", rec, err)
	}
}

// endless is a device such as /dev/zero.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	e.read += len(b)
	clear(b)
	return len(b), nil
}

func TestSomethingElseIsNotReadToItsEnd(t *testing.T) {
	var e endless
	if rec, err := Read(&e); rec != nil || !errors.Is(err, ErrNotARecording) || e.read > 1<<20 {
		t.Errorf("got %v, %v after %d bytes", rec, err, e.read)
	}
}

func TestUnknownSectionIsSkipped(t *testing.T) {
	rec := sample(t)
	file := encode(t, rec)
	var b bytes.Buffer
	s := &sections{w: &b}
	s.write(file[:fileHeader])
	s.section("NEWS", 3, []byte("anything"))
	s.write(file[fileHeader:])
	got, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(rec), contents(got)); diff != "" {
		t.Error(diff)
	}
}

func TestNotARecording(t *testing.T) {
	for _, s := range []string{"", "x", "{\"schema\":\"freezeframe.report/v1\"}", strings.Repeat("\x00", 1000), "\x89PNG\r\n\x1a\n" + strings.Repeat("z", 100)} {
		if rec, err := Read(strings.NewReader(s)); !errors.Is(err, ErrNotARecording) || rec != nil {
			t.Errorf("%.20q: %v, %v", s, rec, err)
		}
	}
	if _, err := ReadFile("testdata/nowhere.frz"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A file whose lengths lie must not cost memory: 28 bytes must not ask for
// megabytes, nor make the reader hash the file again and again.
func TestLyingLengths(t *testing.T) {
	file := encode(t, sample(t))[:fileHeader]
	for range 10_000 {
		b := append([]byte(sectionSync), tagChunk...)
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint32(b, 100_000) // packed
		b = binary.LittleEndian.AppendUint32(b, maxSection)
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
		file = append(file, b...)
	}
	// And one that is intact but unpacks to something else than it says.
	var p packer
	defer p.close()
	packed, err := p.deflate(bytes.Repeat([]byte{1}, 100))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	s := &sections{w: &b}
	s.section(tagHead, maxSection, packed)
	s.section(tagHead, 10, packed)
	file = append(file, b.Bytes()...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rec, err := Read(bytes.NewReader(file))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrDamaged) || rec == nil || len(rec.Sources) != 0 {
		t.Errorf("got %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 40<<20 {
		t.Errorf("%d bytes allocated for a file of %d", used, len(file))
	}
}

// A disk that fails in the middle keeps what was read before.
func TestReadErrorKeepsWhatCameBefore(t *testing.T) {
	file := encode(t, sample(t))
	rec, err := Read(io.MultiReader(bytes.NewReader(file[:len(file)-40]), failing{}))
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), syscall.EIO.Error()) || len(rec.blocks) != 3 {
		t.Errorf("%v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, syscall.EIO }

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.frz")
	for range 2 { // the second replaces the first
		if err := WriteFile(path, sample(t)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(sample(t)), contents(got)); diff != "" {
		t.Error(diff)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := WriteFile(filepath.Join(dir, "nowhere", "x.frz"), sample(t)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A full disk, a real one: a filesystem of its own.
func TestWriteFileOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small filesystem needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("this machine does not allow a tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	path := filepath.Join(dir, "x.frz")
	if err := os.WriteFile(path, []byte("the old one"), 0o600); err != nil {
		t.Fatal(err)
	}
	rec := sample(t)
	rnd := rand.New(rand.NewPCG(1, 1))
	for n := range 4000 { // more than 16 KiB however well it packs
		rec.Events = append(rec.Events, freezeframe.Event{Kind: "k", At: freezeframe.Instant(n), Text: fmt.Sprintf("%x%x", rnd.Uint64(), rnd.Uint64())})
	}
	err := WriteFile(path, rec)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk is full: free some space") {
		t.Errorf("got %v", err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 || entries[0].Name() != "x.frz" {
		t.Errorf("left behind: %v", entries)
	}
	if b, _ := os.ReadFile(path); string(b) != "the old one" {
		t.Errorf("the old file now has %d bytes", len(b))
	}
}

func FuzzRead(f *testing.F) {
	file := encode(f, sample(f))
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add(append(slices.Clone(file[:fileHeader]), file[100:]...))
	f.Add(sampleSegment(f))
	f.Fuzz(func(t *testing.T, file []byte) {
		check := func(file []byte) {
			rec, err := Read(bytes.NewReader(file))
			if err == nil && rec == nil {
				t.Fatal("neither a recording nor an error")
			}
			if rec == nil {
				return
			}
			for i, src := range rec.Sources {
				for _, table := range rec.tables(i) {
					if len(clone(&table).Vals) != len(table.Keys)*len(src.Columns) {
						t.Fatal("a table with other than its columns")
					}
				}
				rec.Series(src.Name, freezeframe.Span{Start: 1, End: 2})
			}
			rec.Text(1)
			rec.Window(freezeframe.Stall{}).Events("", freezeframe.Whole)
		}
		check(file)
		// Checksums keep a fuzzer out of what lies behind them: mend them.
		check(mended(file))
	})
}

// mended returns the file with the checksums that its sections should have.
func mended(file []byte) []byte {
	file = slices.Clone(file)
	if len(file) < fileHeader {
		return file
	}
	file = remade(file, func([]byte) {})
	for at := fileHeader; at+sectionSize <= len(file); {
		if string(file[at:at+4]) != sectionSync {
			at++
			continue
		}
		n := int(binary.LittleEndian.Uint32(file[at+12:]))
		if n <= len(file)-at-sectionSize {
			binary.LittleEndian.PutUint32(file[at+20:], crc32.Checksum(file[at+sectionSize:at+sectionSize+n], castagnoli))
		} else {
			n = 0
		}
		binary.LittleEndian.PutUint32(file[at+24:], crc32.Checksum(file[at:at+24], castagnoli))
		at += sectionSize + n
	}
	return file
}
