package collectors

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The archives in testdata/cgroups are hosts with v1, v2 (systemd on Debian 12)
// and both; the golden text beside each is what must be read from it.
func eachHost(t *testing.T, test func(t *testing.T, dir, golden string)) {
	archives, err := filepath.Glob("testdata/cgroups/*.txtar")
	if err != nil || len(archives) < 3 {
		t.Fatalf("%d hosts, %v", len(archives), err)
	}
	for _, path := range archives {
		name, _ := strings.CutSuffix(path, ".txtar")
		t.Run(filepath.Base(name), func(t *testing.T) {
			test(t, unpack(t, path), name+".txt")
		})
	}
}

// unpack writes the files of an archive, which follow "-- name --" lines, into
// a directory of the test's own.
func unpack(t *testing.T, archive string) (dir string) {
	t.Helper()
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	_, rest, _ := strings.Cut(string(content), "\n-- ")
	for file := range strings.SplitSeq(rest, "\n-- ") {
		name, text, ok := strings.Cut(file, " --\n")
		if !ok {
			t.Fatalf("%s: %q has no name", archive, file)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		// The newline before the next name belongs to the file, unless it is empty.
		if text != "" {
			text = strings.TrimSuffix(text, "\n") + "\n"
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCgroupsGolden(t *testing.T) {
	eachHost(t, func(t *testing.T, dir, golden string) {
		got := sparse(outcome(t, &cgroups{}, hostAt(dir)))
		if *update {
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

// sparse leaves out the columns that are 0, which most are.
func sparse(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "  ") || !strings.HasSuffix(line, " 0\n") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Whatever a control file holds, and wherever it ends, nothing panics and no
// counter is larger than in the whole file.
func TestCgroupsTruncatedAndGarbage(t *testing.T) {
	eachHost(t, func(t *testing.T, dir, _ string) {
		c := &cgroups{}
		if err := c.Open(hostAt(dir)); err != nil {
			t.Fatal(err)
		}
		defer closed(t, c)
		var table freezeframe.Table
		reread := func() {
			c.every = pace{}
			collect(t, c, &table)
		}
		reread()
		if len(table.Keys) == 0 {
			t.Fatal("no rows")
		}
		whole := slices.Clone(table.Vals)
		columns := c.Source().Columns
		files := make(map[string]bool) // one of each name: the groups are alike
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || files[d.Name()] {
				return err
			}
			files[d.Name()] = true
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for n := range content {
				if err := os.Truncate(path, int64(len(content)-1-n)); err != nil {
					return err
				}
				reread()
				for i, v := range table.Vals {
					if column := columns[i%cgWidth]; column.Kind == freezeframe.Counter && v > whole[i] {
						t.Fatalf("%s cut by %d: %s is %d, was %d", path, n+1, column.Name, v, whole[i])
					}
				}
			}
			for i := range content {
				bad := bytes.Clone(content)
				bad[i] = "\x00\xff\n -:9x"[i%8]
				if err := os.WriteFile(path, bad, 0o644); err != nil {
					return err
				}
				reread()
			}
			return os.WriteFile(path, content, 0o644)
		})
		if err != nil || len(files) < 10 {
			t.Fatalf("%d files, %v", len(files), err)
		}
	})
}

func FuzzCgroupFiles(f *testing.F) {
	for _, seed := range []string{
		"max 100000\n", "usage_usec 1\nnr_periods 2\n", "254:0 rbytes=1 wbytes=2 rios=3 wios=4\n", "254:0 Read 12\nTotal 12\n",
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=17\n", "254:0 rbps=1048576 wbps=max\n", "FROZEN\n", "9223372036854771712\n",
	} {
		f.Add([]byte(seed))
	}
	kinds := cgroupKinds()
	f.Fuzz(func(t *testing.T, b []byte) {
		var row [cgWidth]uint64
		for _, k := range kinds {
			for _, file := range slices.Concat(k.live, k.limits) {
				file.parse(b, row[:])
			}
		}
		for key := range cgroupKeys(b) {
			_ = key
		}
		var m mountLine
		for lines := kernel.Scan(b); nextMount(&lines, &m); {
			appendUnescaped(nil, m.point)
			kindOf(&m)
			mayStat(b, &m)
		}
	})
}

func TestCgroupKeys(t *testing.T) {
	const file = "12:cpu,cpuacct:/a/b\n4:memory:/m:x\n1:name=systemd:/init\n0::/system.slice/x.service\nbroken\n"
	want := []string{"cpu:/a/b", "cpuacct:/a/b", "memory:/m:x", "name=systemd:/init", "/system.slice/x.service"}
	if got := slices.Collect(cgroupKeys([]byte(file))); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCgroupLimits(t *testing.T) {
	for _, tt := range []struct {
		parse  func([]byte, []uint64)
		text   string
		column int
		want   uint64
	}{
		{parseCPUMax, "max 100000\n", cgCPUQuota, 0},
		{parseCPUMax, "50000 100000\n", cgCPUQuota, 50000},
		{parseCPUMax, "50000 100000\n", cgCPUPeriod, 100000},
		{limitInto(cgMemoryMax), "max\n", cgMemoryMax, 0},
		{limitInto(cgMemoryMax), "9223372036854771712\n", cgMemoryMax, 0},
		{limitInto(cgMemoryMax), "1048576\n", cgMemoryMax, 1048576},
		{limitedInto, "254:0 rbps=max wbps=1048576 riops=max wiops=max\n", cgIOLimited, 1},
		{limitedInto, "254:0 rbps=max wbps=max riops=max wiops=max\n", cgIOLimited, 0},
		{limitedInto, "254:0 1048576\n", cgIOLimited, 1},
		{limitedInto, "", cgIOLimited, 0},
	} {
		var row [cgWidth]uint64
		if tt.parse([]byte(tt.text), row[:]); row[tt.column] != tt.want {
			t.Errorf("%q: %d, want %d", tt.text, row[tt.column], tt.want)
		}
	}
}

// makeCgroup makes a group of this test's own in a v1 hierarchy (or, with an
// empty controller, in v2), and moves a child into it that runs command.
func makeCgroup(t *testing.T, controller string, command ...string) (dir, key string, pid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a cgroup takes root")
	}
	w := &cgroupWalker{host: live()}
	if err := w.findTrees(); err != nil {
		t.Skip(err)
	}
	at := slices.IndexFunc(w.trees, func(tree cgroupTree) bool { return tree.kind.controller == controller })
	if at < 0 {
		t.Skipf("no hierarchy %q is mounted here", controller)
	}
	name := fmt.Sprintf("freezeframe-test-%d", os.Getpid())
	dir = filepath.Join(w.trees[at].path, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("cannot make a cgroup here: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	child := exec.CommandContext(ctx, command[0], command[1:]...)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		child.Wait()
		for range 100 {
			if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("cannot remove %s", dir)
	})
	write(t, dir, "cgroup.procs", strconv.Itoa(child.Process.Pid))
	return dir, w.trees[at].prefix + "/" + name, child.Process.Pid
}

func write(t *testing.T, dir, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCgroupsThrottled(t *testing.T) {
	dir, key, pid := makeCgroup(t, "cpu", "sh", "-c", "while :; do :; done")
	write(t, dir, "cpu.cfs_quota_us", "10000")
	c := &cgroups{}
	r := openLive(t, c)
	read := func(ok func(liveRow) bool) liveRow {
		return r.until(c, key, func(row liveRow) bool { c.every = pace{}; return row.name == key && ok(row) })
	}
	first := read(func(liveRow) bool { return true })
	if v := first.values; v["cpu_quota_us"] != 10000 || v["cpu_period_us"] != 100000 || v["procs"] != 1 {
		t.Errorf("%v", v)
	}
	read(func(row liveRow) bool {
		return row.values["cpu_throttled"] > first.values["cpu_throttled"] &&
			row.values["cpu_throttled_us"] > first.values["cpu_throttled_us"] &&
			row.values["cpu_periods"] > first.values["cpu_periods"]
	})

	// While a stall is open it is read at the full rate, by itself.
	r.host.Focus.Watch([]int32{int32(pid)})
	r.host.Focus.Suspect(kernel.Now().Add(time.Minute))
	r.rows(c)
	r.until(c, "at the full rate", func(row liveRow) bool {
		c.every = pace{next: kernel.Now().Add(time.Hour)}
		return row.name == key
	})
	if n := testing.AllocsPerRun(100, func() {
		c.every = pace{}
		r.table.Reset()
		if err := c.Collect(&r.table); err != nil {
			t.Error(err)
		}
	}); n != 0 || len(r.table.Keys) == 0 {
		t.Errorf("%v allocations a reading of %d rows", n, len(r.table.Keys))
	}
}

func TestCgroupsFrozen(t *testing.T) {
	for _, tt := range []struct{ controller, file, freeze, thaw string }{
		{"freezer", "freezer.state", "FROZEN", "THAWED"},
		{"", "cgroup.freeze", "1", "0"},
	} {
		t.Run("controller "+tt.controller, func(t *testing.T) {
			dir, key, _ := makeCgroup(t, tt.controller, "sleep", "60")
			c := &cgroups{}
			r := openLive(t, c)
			for _, want := range []uint64{0, 1, 0} {
				if want == 1 {
					write(t, dir, tt.file, tt.freeze)
				} else {
					write(t, dir, tt.file, tt.thaw)
				}
				r.until(c, fmt.Sprintf("%s frozen %d", key, want), func(row liveRow) bool {
					c.every = pace{}
					return row.name == key && row.values["frozen"] == want
				})
			}
		})
	}
}

// A group that is removed loses its row and its descriptors.
func TestCgroupsRemoved(t *testing.T) {
	dir, key, pid := makeCgroup(t, "pids", "sleep", "60")
	write(t, dir, "pids.max", "7")
	c := &cgroups{}
	r := openLive(t, c)
	row := r.until(c, key, func(row liveRow) bool { c.every = pace{}; return row.name == key })
	if v := row.values; v["pids"] != 1 || v["pids_max"] != 7 {
		t.Errorf("%v", v)
	}
	unix.Kill(pid, unix.SIGKILL)
	for unix.Rmdir(dir) == unix.EBUSY { // until its process is gone
		time.Sleep(time.Millisecond)
	}
	// Before the walk can have noticed: no row of zeros.
	c.every = pace{}
	if rows := r.rows(c); slices.ContainsFunc(rows, func(row liveRow) bool { return row.name == key }) {
		t.Error("removed, and still a row")
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c.every = pace{}
		rows := r.rows(c)
		held := slices.ContainsFunc(rows, func(row liveRow) bool { return row.name == key })
		for _, path := range descriptors(t) {
			held = held || strings.HasPrefix(path, dir+"/")
		}
		if !held {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the row or a descriptor of the removed group is still there")
		}
	}
}

// systemd enables a controller for a unit that runs already when a setting asks
// for it: its files appear in a group that has a row.
func TestCgroupsControllerEnabledLater(t *testing.T) {
	dir := unpack(t, "testdata/cgroups/v2-debian-12.txtar")
	group := filepath.Join(dir, "sys/fs/cgroup/system.slice/ssh.service")
	write(t, group, "cgroup.controllers", "memory pids\n")
	c := &cgroups{every: pace{}, buf: make([]byte, 32<<10)}
	host := hostAt(dir)
	c.texts = host.Texts
	c.walker = &cgroupWalker{host: host, publish: c.hand, needs: &c.needs, small: make([]byte, 16<<10), known: make(map[string]*knownCgroup)}
	if err := c.walker.findTrees(); err != nil {
		t.Fatal(err)
	}
	defer c.walker.closeAll()
	read := func() uint64 {
		for _, k := range c.walker.known {
			k.checked = 0 // seconds later
		}
		c.walker.walk()
		k := c.walker.known["/system.slice/ssh.service"]
		if k == nil || k.cgroup == nil {
			t.Fatal("no row")
		}
		var table freezeframe.Table
		c.read(&table, k.cgroup)
		return table.Vals[cgIORead]
	}
	if err := os.Remove(filepath.Join(group, "io.stat")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if v := read(); v != 0 {
		t.Fatalf("it read %d bytes, and has no io.stat", v)
	}
	open := c.walker.open
	write(t, group, "io.stat", "254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n")
	write(t, group, "cgroup.controllers", "io memory pids\n")
	if v := read(); v != 4096 {
		t.Errorf("io.stat appeared with 4096 bytes, read were %d", v)
	}
	read()
	if c.walker.open != open+1 {
		t.Errorf("%d descriptors, %d and one more are needed", c.walker.open, open)
	}
}

// While something is stalled a limit that is cut is seen before the next walk,
// which on a slow machine or one with many cgroups is seconds away.
func TestCgroupsLimitCutWhileStalled(t *testing.T) {
	dir := unpack(t, "testdata/cgroups/v2-debian-12.txtar")
	pid := filepath.Join(dir, "proc/7")
	if err := os.MkdirAll(pid, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, pid, "cgroup", "0::/system.slice/ssh.service\n")
	host := hostAt(dir)
	w := &cgroupWalker{host: host, publish: func([]*cgroup) bool { return true }, needs: new(needs), small: make([]byte, 16<<10), known: make(map[string]*knownCgroup)}
	if err := w.findTrees(); err != nil {
		t.Fatal(err)
	}
	defer w.closeAll()
	w.walk()
	io := func(key string) uint64 {
		k := w.known[key]
		if k == nil || k.cgroup == nil {
			t.Fatalf("no row for %s", key)
		}
		return k.cgroup.limits.Load()[cgIOLimited]
	}
	const mine, others = "/system.slice/ssh.service", "/init.scope"
	group := filepath.Join(dir, "sys/fs/cgroup")
	for _, key := range []string{mine, others} {
		write(t, group+key, "io.max", "7:0 rbps=max wbps=max riops=2 wiops=max\n")
	}
	host.Focus.Watch([]int32{7})
	w.watch()
	if io(mine) != 1 || !w.known[mine].cgroup.hot.Load() {
		t.Error("the limit that was cut is not seen")
	}
	if io(others) != 0 {
		t.Error("the limits of those who are not in focus were read, too")
	}
}

func TestAboveCgroup(t *testing.T) {
	for key, want := range map[string]string{
		"/a/b":         "/a",
		"/a":           "/",
		"/":            "/",
		"cpu:/a/b":     "cpu:/a",
		"cpu:/a":       "cpu:/",
		"cpu:/":        "cpu:/",
		"/odd:/name/x": "/odd:/name",
	} {
		if got := aboveCgroup(key); got != want {
			t.Errorf("above %s: %s, want %s", key, got, want)
		}
	}
}

func BenchmarkCgroups(b *testing.B) {
	c := &cgroups{}
	if err := c.Open(live()); err != nil {
		b.Skip(err)
	}
	defer c.Close()
	var table freezeframe.Table
	b.ReportAllocs()
	for b.Loop() {
		c.every = pace{}
		table.Reset()
		if err := c.Collect(&table); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(table.Keys)), "rows")
}
