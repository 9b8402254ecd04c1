package collectors

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The tests in this file range over All: a new collector is held to them
// without another line. One that cannot be read from a captured tree, because
// it asks the kernel by sockets, says so by ErrNotHere when it is opened with a
// Host whose Proc is not /proc; the live tests still hold it.

var update = flag.Bool("update", false, "rewrite the golden files")

const trees = "testdata/trees"

// What the slow lane reads may have to be waited for: a raw read there makes a
// garbage collection spin on every CPU until it is over.
func TestSlowLaneTellsTheScheduler(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	raw := regexp.MustCompile(`\.(lines|Read)\(\)|kernel\.(ReadAt|Pread)\(`)
	slow := 0
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") || !bytes.Contains(b, []byte("Lane: freezeframe.Slow")) {
			continue
		}
		slow++
		if found := raw.Find(b); found != nil {
			t.Errorf("%s reads by %s: use slowLines, SlowRead or SlowReadAt", name, found)
		}
	}
	if slow == 0 {
		t.Error("no collector is on the slow lane")
	}
}

// each runs a subtest for every collector.
func each(t *testing.T, test func(*testing.T, freezeframe.Collector)) {
	for _, c := range All(nil) {
		t.Run(c.Source().Name, func(t *testing.T) { test(t, c) })
	}
}

// eachTree runs a subtest for every collector that can be opened on each tree.
func eachTree(t *testing.T, test func(t *testing.T, c freezeframe.Collector, tree string)) {
	entries, err := os.ReadDir(trees)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			each(t, func(t *testing.T, c freezeframe.Collector) {
				tree := filepath.Join(trees, e.Name())
				if err := c.Open(hostAt(tree)); err != nil {
					if !errors.Is(err, freezeframe.ErrNotHere) {
						t.Fatalf("open: %v; want success or ErrNotHere", err)
					}
					return
				}
				closed(t, c)
				test(t, c, tree)
			})
		})
	}
}

func closed(t *testing.T, c freezeframe.Collector) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// dictionary is a freezeframe.Texts that can be read back.
type dictionary map[uint64]string

func (d dictionary) Intern(b []byte) uint64 {
	if len(b) == 0 {
		return 0
	}
	h := fnv.New64a()
	h.Write(b)
	id := h.Sum64()
	if _, known := d[id]; !known {
		d[id] = string(b)
	}
	return id
}

func hostAt(tree string) freezeframe.Host {
	return freezeframe.Host{Proc: tree + "/proc", Sys: tree + "/sys", Texts: dictionary{}, Focus: &freezeframe.Focus{}}
}

func live() freezeframe.Host {
	return freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: dictionary{}, Focus: &freezeframe.Focus{}}
}

// collect reads once and checks the shape of what comes.
func collect(t *testing.T, c freezeframe.Collector, table *freezeframe.Table) error {
	t.Helper()
	table.Reset()
	err := c.Collect(table)
	if want := len(table.Keys) * len(c.Source().Columns); len(table.Vals) != want {
		t.Fatalf("%d values for %d rows of %d columns", len(table.Vals), len(table.Keys), len(c.Source().Columns))
	}
	return err
}

// render writes a table as text, one row a line.
func render(s freezeframe.Source, table *freezeframe.Table, texts freezeframe.Texts) string {
	words, _ := texts.(dictionary)
	var b strings.Builder
	for i, k := range table.Keys {
		switch {
		case s.Key == "":
		case s.Key == "text":
			fmt.Fprintf(&b, "%q\n", words[uint64(k)])
		case k == freezeframe.AllCPUs:
			b.WriteString("all\n")
		default:
			fmt.Fprintf(&b, "%d\n", k)
		}
		for j, v := range table.Values(i, len(s.Columns)) {
			if s.Columns[j].Kind == freezeframe.Text {
				fmt.Fprintf(&b, "  %s %q\n", s.Columns[j].Name, words[v])
			} else {
				fmt.Fprintf(&b, "  %s %d\n", s.Columns[j].Name, int64(v))
			}
		}
	}
	for _, n := range s.Needs {
		fmt.Fprintf(&b, "needs: %s\n", n.What)
	}
	return b.String()
}

// outcome is all that opening and reading a collector once tells.
func outcome(t *testing.T, c freezeframe.Collector, h freezeframe.Host) string {
	t.Helper()
	if err := c.Open(h); err != nil {
		return "open: " + err.Error()
	}
	defer closed(t, c)
	var table freezeframe.Table
	err := collect(t, c, &table)
	text := render(c.Source(), &table, h.Texts)
	if err != nil {
		text += "error: " + err.Error() + "\n"
	}
	return text
}

func TestSources(t *testing.T) {
	var (
		word   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)
		inside = regexp.MustCompile(`_(ns|us|ms|bytes|pages|ticks)_`)
		seen   = map[string]bool{}
		keys   = []string{"", "cpu", "task", "socket", "text", "lock", "mount", "connection", "issuer", "interrupt", "record", "wait"}
	)
	for _, s := range Sources() {
		if !word.MatchString(s.Name) || s.Name != strings.ToLower(s.Name) || seen[s.Name] {
			t.Errorf("%q: a name is lower case and the only one of its kind", s.Name)
		}
		seen[s.Name] = true
		if s.From == "" {
			t.Errorf("%s: From does not say what it is read from", s.Name)
		}
		if !slices.Contains(keys, s.Key) {
			t.Errorf("%s: key %q is none of %q", s.Name, s.Key, keys)
		}
		if s.Every < 10*time.Millisecond || s.Every > time.Minute {
			t.Errorf("%s: every %s", s.Name, s.Every)
		}
		if s.Stalled < 0 || s.Stalled > s.Every {
			t.Errorf("%s: every %s while stalled, and %s while nothing is wrong", s.Name, s.Stalled, s.Every)
		}
		if s.Lane >= freezeframe.Lanes {
			t.Errorf("%s: lane %d", s.Name, s.Lane)
		}
		if len(s.Columns) == 0 {
			t.Errorf("%s: no columns", s.Name)
		}
		columns := map[string]bool{}
		for _, col := range s.Columns {
			if !word.MatchString(col.Name) || columns[col.Name] {
				t.Errorf("%s: column %q is no word or stands twice", s.Name, col.Name)
			}
			columns[col.Name] = true
			if inside.MatchString(col.Name) {
				t.Errorf("%s: column %q: the unit ends a name", s.Name, col.Name)
			}
			if col.Kind > freezeframe.Text {
				t.Errorf("%s: column %q: kind %d", s.Name, col.Name, col.Kind)
			}
		}
	}
}

// On the running machine each collector opens, or says that its source is not
// here, and reads without allocating.
func TestLive(t *testing.T) {
	each(t, func(t *testing.T, c freezeframe.Collector) {
		columns := c.Source().Columns
		if err := c.Open(live()); err != nil {
			if !errors.Is(err, freezeframe.ErrNotHere) {
				t.Fatalf("open: %v; want success or ErrNotHere", err)
			}
			t.Logf("open: %v", err)
			return
		}
		defer closed(t, c)
		if !slices.Equal(columns, c.Source().Columns) {
			t.Error("the columns are not those from before Open")
		}
		var table freezeframe.Table
		if err := collect(t, c, &table); err != nil {
			t.Fatalf("collect: %v", err)
		}
		checkNeeds(t, c.Source())
		noAllocations(t, c)
	})
}

func checkNeeds(t *testing.T, s freezeframe.Source) {
	for _, n := range s.Needs {
		if n.What == "" || n.Lost == "" || n.Err == "" {
			t.Errorf("a need must say what was tried, what is lost and the error: %+v", n)
		}
	}
}

func noAllocations(t *testing.T, c freezeframe.Collector) {
	t.Helper()
	var table freezeframe.Table
	for range 3 { // the tables and buffers find their size
		if err := collect(t, c, &table); err != nil {
			t.Fatalf("collect: %v", err)
		}
	}
	allocations := testing.AllocsPerRun(100, func() {
		table.Reset()
		if err := c.Collect(&table); err != nil {
			t.Errorf("collect: %v", err)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations a reading; want none", allocations)
	}
}

func TestNoAllocationsOnTrees(t *testing.T) {
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		if err := c.Open(hostAt(tree)); err != nil {
			t.Fatal(err)
		}
		defer closed(t, c)
		noAllocations(t, c)
	})
}

func TestGolden(t *testing.T) {
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		golden := filepath.Join(tree, "golden", c.Source().Name+".txt")
		got := outcome(t, c, hostAt(tree))
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatalf("%v (write it with -update, and read it)", err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// Open may be called again after Close, on another tree, and says the same.
func TestReopen(t *testing.T) {
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		before := descriptors(t)
		first := outcome(t, c, hostAt(tree))
		outcome(t, c, hostAt(t.TempDir()))
		if diff := cmp.Diff(first, outcome(t, c, hostAt(tree))); diff != "" {
			t.Errorf("opened again, it reads otherwise:\n%s", diff)
		}
		if err := c.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
		if after := descriptors(t); len(after) != len(before) {
			t.Errorf("%d descriptors before, %d after", len(before), len(after))
		}
	})
}

func TestNothingThere(t *testing.T) {
	each(t, func(t *testing.T, c freezeframe.Collector) {
		before := descriptors(t)
		if err := c.Open(hostAt(t.TempDir())); !errors.Is(err, freezeframe.ErrNotHere) {
			t.Errorf("open on an empty tree: %v; want ErrNotHere", err)
			closed(t, c)
		}
		if after := descriptors(t); len(after) != len(before) {
			t.Errorf("%d descriptors before, %d after", len(before), len(after))
		}
	})
}

// descriptors returns what each open descriptor of this process leads to.
func descriptors(t *testing.T) map[int]string {
	t.Helper()
	all := map[int]string{}
	for fd := range 1024 {
		if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
			all[fd] = path
		}
	}
	return all
}

// scratch copies a tree and returns the copy and the files that c depends on:
// those that it keeps open, or without which it tells something else.
func scratch(t *testing.T, c freezeframe.Collector, tree string) (dir string, files []string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "golden")); err != nil {
		t.Fatal(err)
	}
	whole := outcome(t, c, hostAt(dir))
	if err := c.Open(hostAt(dir)); err != nil {
		t.Fatal(err)
	}
	kept := slices.Collect(maps.Values(descriptors(t)))
	closed(t, c)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if err := os.Rename(path, path+".away"); err != nil {
			return err
		}
		if slices.Contains(kept, path) || outcome(t, c, hostAt(dir)) != whole {
			files = append(files, path)
		}
		return os.Rename(path+".away", path)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("depends on no file of the tree")
	}
	return dir, files
}

// A file that is not there is an ErrNotHere or a Need, never a silent zero.
func TestFileMissing(t *testing.T) {
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		dir, files := scratch(t, c, tree)
		if err := c.Open(hostAt(dir)); err != nil {
			t.Fatal(err)
		}
		needs := len(c.Source().Needs)
		closed(t, c)
		for _, path := range files {
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			err := c.Open(hostAt(dir))
			switch {
			case err == nil:
				checkNeeds(t, c.Source())
				if len(c.Source().Needs) <= needs && !optional(path) {
					t.Errorf("without %s: neither an error nor a need", path)
				}
				closed(t, c)
			case !errors.Is(err, freezeframe.ErrNotHere):
				t.Errorf("without %s: %v; want ErrNotHere", path, err)
			}
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// optional tells of files whose absence is itself the information.
func optional(path string) bool { return strings.HasSuffix(path, "/device") }

// Whatever byte a file ends at, before Open or after it, the collector reads
// what is whole: no panic, no half a number taken for a counter.
func TestTruncated(t *testing.T) {
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		dir, files := scratch(t, c, tree)
		before := descriptors(t)
		h := hostAt(dir)
		full, width, columns := rows(t, c, h)
		for _, path := range files {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Open(h); err != nil {
				t.Fatal(err)
			}
			var table freezeframe.Table
			for n := len(content) - 1; n >= 0; n-- {
				if err := os.Truncate(path, int64(n)); err != nil {
					t.Fatal(err)
				}
				collect(t, c, &table)
				for i, k := range table.Keys {
					want, known := full[k]
					for j, v := range table.Values(i, width) {
						if known && columns[j].Kind == freezeframe.Counter && v > want[j] {
							t.Fatalf("%s cut to %d bytes: %s is %d; the whole file says %d", path, n, columns[j].Name, v, want[j])
						}
					}
				}
			}
			closed(t, c)
			for n := 0; n < len(content); n += 1 + len(content)/100 {
				if err := os.WriteFile(path, content[:n], 0o644); err != nil {
					t.Fatal(err)
				}
				if c.Open(h) == nil {
					collect(t, c, &table)
					closed(t, c)
				}
			}
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if after := descriptors(t); len(after) != len(before) {
			t.Errorf("%d descriptors before, %d after", len(before), len(after))
		}
	})
}

// rows returns the rows of one reading by key.
func rows(t *testing.T, c freezeframe.Collector, h freezeframe.Host) (map[freezeframe.Key][]uint64, int, []freezeframe.Column) {
	t.Helper()
	if err := c.Open(h); err != nil {
		t.Fatal(err)
	}
	defer closed(t, c)
	var table freezeframe.Table
	if err := collect(t, c, &table); err != nil {
		t.Fatal(err)
	}
	columns := c.Source().Columns
	all := make(map[freezeframe.Key][]uint64)
	for i, k := range table.Keys {
		all[k] = slices.Clone(table.Values(i, len(columns)))
	}
	return all, len(columns), columns
}

// Whatever stands in a file, before Open or after it, nothing panics.
func TestGarbage(t *testing.T) {
	bad := []byte{0, 0xff, '\n', ' ', '-', ':', '9', 'x'}
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		dir, files := scratch(t, c, tree)
		h := hostAt(dir)
		random := rand.NewChaCha8([32]byte{})
		var table freezeframe.Table
		for _, path := range files {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Open(h); err != nil {
				t.Fatal(err)
			}
			overwrite := func(b []byte) {
				if err := os.WriteFile(path, b, 0o644); err != nil { // in place: the descriptor sees it
					t.Fatal(err)
				}
				collect(t, c, &table)
			}
			for i := 0; i < len(content); i += 1 + len(content)/500 {
				b := bytes.Clone(content)
				b[i] = bad[i%len(bad)]
				overwrite(b)
			}
			var noises [][]byte
			for range 20 {
				noise := make([]byte, len(content))
				random.Read(noise)
				noises = append(noises, noise)
				overwrite(noise)
			}
			long := bytes.Repeat([]byte("9"), 100_000) // one line, larger than any buffer
			noises = append(noises, long, append(bytes.Clone(content), content...))
			overwrite(long)
			closed(t, c)
			for _, noise := range noises {
				if err := os.WriteFile(path, noise, 0o644); err != nil {
					t.Fatal(err)
				}
				if c.Open(h) == nil {
					collect(t, c, &table)
					closed(t, c)
				}
			}
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A file whose reading fails later is an error that names it.
func TestReadFails(t *testing.T) {
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		dir, _ := scratch(t, c, tree)
		directory, err := os.Open(dir) // reading it fails with EISDIR
		if err != nil {
			t.Fatal(err)
		}
		defer directory.Close()
		before := descriptors(t)
		if err := c.Open(hostAt(dir)); err != nil {
			t.Fatal(err)
		}
		defer closed(t, c)
		var table freezeframe.Table
		for fd, path := range descriptors(t) {
			if before[fd] == path || !strings.HasPrefix(path, dir) {
				continue
			}
			saved, err := unix.Dup(fd)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Dup3(int(directory.Fd()), fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			if err := collect(t, c, &table); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s cannot be read: got %v; want an error that names it", path, err)
			}
			if err := unix.Dup3(saved, fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			if err := unix.Close(saved); err != nil {
				t.Fatal(err)
			}
			if err := collect(t, c, &table); err != nil {
				t.Errorf("%s can be read again: %v", path, err)
			}
		}
	})
}
