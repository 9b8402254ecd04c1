package collectors

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const locksFile = `1: POSIX  ADVISORY  WRITE 359 fe:00:11691 0 EOF
1: -> POSIX  ADVISORY  WRITE 360 fe:00:11691 0 EOF
1:  -> POSIX  ADVISORY  WRITE 361 fe:00:11691 0 EOF
2: FLOCK  ADVISORY  WRITE 500 08:01:42 0 EOF
3: OFDLCK ADVISORY  READ  -1 00:1c:7 0 99
3: -> OFDLCK ADVISORY  WRITE -1 00:1c:7 0 99
3: -> POSIX  ADVISORY  WRITE 362 00:1c:7 0 99
4: LEASE  ACTIVE    WRITE 600 fe:00:9 0 EOF
5: -> FLOCK  ADVISORY  WRITE 999 08:01:42 0 EOF
`

func TestParseLocks(t *testing.T) {
	texts := dictionary{}
	parse := func(text string) []string {
		var table freezeframe.Table
		parseLocks(&table, []byte(text), texts)
		var out []string
		for i, k := range table.Keys {
			v := table.Values(i, locksWidth)
			out = append(out, fmt.Sprintf("%d: %d waits for %d, %s of %d:%d inode %d",
				k>>32, v[locksWaiter], v[locksHolder], texts[v[locksKind]], v[locksDev]>>20, v[locksDev]&(1<<20-1), v[locksInode]))
		}
		return out
	}
	want := []string{
		"360: 360 waits for 359, POSIX of 254:0 inode 11691",
		"361: 361 waits for 359, POSIX of 254:0 inode 11691",
		// The holder is an open file description, which has no process.
		"362: 362 waits for 0, POSIX of 0:28 inode 7",
	}
	if diff := cmp.Diff(want, parse(locksFile)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for n := range locksFile {
		for _, row := range parse(locksFile[:strings.LastIndexByte(locksFile[:n], 0x0a)+1]) {
			if !slices.Contains(want, row) {
				t.Errorf("cut to %d bytes: %s", n, row)
			}
		}
	}
	// Two threads of a process that wait for the same file are two rows.
	twice := strings.Repeat("1: -> FLOCK ADVISORY WRITE 5 08:01:42 0 EOF\n", 2)
	var table freezeframe.Table
	parseLocks(&table, []byte("1: FLOCK ADVISORY WRITE 4 08:01:42 0 EOF\n"+twice), texts)
	if len(table.Keys) != 2 || table.Keys[0] == table.Keys[1] {
		t.Errorf("keys %v, want two", table.Keys)
	}
}

func FuzzLocks(f *testing.F) {
	f.Add([]byte(locksFile))
	f.Add([]byte("1: -> \n:\n1:\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var table freezeframe.Table
		parseLocks(&table, b, dictionary{})
		if len(table.Keys) > maxLockRows {
			t.Fatal(len(table.Keys))
		}
		infoNames(b, 7)
	})
}

func TestLocksWaiter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a locked file")
	holder, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	waiter := exec.Command("flock", path, "true")
	if err := waiter.Start(); err != nil {
		t.Fatal(err)
	}
	defer waiter.Wait()
	defer waiter.Process.Kill()
	c := &locks{}
	r := openLive(t, c)
	row := r.until(c, "of the waiter", func(row liveRow) bool {
		return row.values["waiter_pid"] == uint64(waiter.Process.Pid)
	})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	v := row.values
	if v["holder_pid"] != uint64(os.Getpid()) || v["inode"] != st.Ino || row.texts["kind"] != "FLOCK" || row.texts["path"] != path {
		t.Errorf("%v; want holder %d, inode %d, path %q", row, os.Getpid(), st.Ino, path)
	}
	if want := uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev)); v["dev"] != want {
		t.Errorf("dev %x, want %x", v["dev"], want)
	}
	if n := testing.AllocsPerRun(50, func() {
		r.table.Reset()
		if err := c.Collect(&r.table); err != nil {
			t.Error(err)
		}
	}); n != 0 || len(r.table.Keys) == 0 {
		t.Errorf("%v allocations a reading of %d rows", n, len(r.table.Keys))
	}
	// Nor when the path has to be found.
	if n := testing.AllocsPerRun(50, func() {
		for i := range c.paths {
			c.paths[i].until = 0
		}
		r.table.Reset()
		c.Collect(&r.table)
	}); n != 0 {
		t.Errorf("%v allocations to find a path", n)
	}
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if !slices.ContainsFunc(r.rows(c), func(row liveRow) bool { return row.values["waiter_pid"] == uint64(waiter.Process.Pid) }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits any more, and the row is still there")
		}
	}
}

const mountinfoFile = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
28 27 0:25 / /mnt/with\040blank\134 ro,nosuid,relatime - tmpfs none ro,size=4k
40 27 0:50 / /net rw - nfs4 server:/export rw,vers=4.2
41 40 8:1 / /net/below rw - ext4 /dev/sda1 rw
42 27 8:2 / /covered rw - ext4 /dev/sda2 rw
43 42 0:51 / /covered rw - fuse.sshfs host:/ rw,user_id=0
44 27 0:52 / /boot rw - autofs systemd-1 rw,fd=50
45 44 8:3 / /boot rw - vfat /dev/sda3 rw
46 27 8:4 / /data rw - fuseblk /dev/sda4 rw
47 27 8:5 / /network rw - xfs /dev/sda5 rw
48 27 0:53 / /btr rw - btrfs /dev/sdb rw
49 27 0:54 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
50 27 0:55 / /shares rw - cifs //nas/x rw
51 27 254:0 /srv /srv rw - ext4 /dev/vda rw
53 27 8:6 / /under rw - ext4 /dev/sda6 rw
54 53 0:56 / /under rw - tmpfs none rw
broken line
52 27 8 / /x
`

func TestMounts(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "proc/self"), 0o755)
	os.WriteFile(filepath.Join(dir, "proc/self/mountinfo"), []byte(mountinfoFile), 0o644)
	c := &mounts{}
	h := hostAt(dir)
	if err := c.Open(h); err != nil {
		t.Fatal(err)
	}
	defer closed(t, c)
	var table freezeframe.Table
	if err := collect(t, c, &table); err != nil {
		t.Fatal(err)
	}
	words := h.Texts.(dictionary)
	var got []string
	for i, k := range table.Keys {
		v := table.Values(i, mountsWidth)
		got = append(got, fmt.Sprintf("%d %s %q local %d readonly %d", k, words[v[mountsFstype]], words[v[mountsPoint]], v[mountsLocal], v[mountsReadonly]))
	}
	want := []string{
		`27 ext4 "/" local 1 readonly 0`,
		`28 tmpfs "/mnt/with blank\\" local 1 readonly 1`,
		`40 nfs4 "/net" local 0 readonly 0`,
		`41 ext4 "/net/below" local 1 readonly 0`,
		`42 ext4 "/covered" local 1 readonly 0`,
		`43 fuse.sshfs "/covered" local 0 readonly 0`,
		`44 autofs "/boot" local 0 readonly 0`,
		`45 vfat "/boot" local 1 readonly 0`,
		`46 fuseblk "/data" local 0 readonly 0`,
		`47 xfs "/network" local 1 readonly 0`,
		`48 btrfs "/btr" local 1 readonly 0`,
		`50 cifs "/shares" local 0 readonly 0`,
		`51 ext4 "/srv" local 1 readonly 0`,
		`53 ext4 "/under" local 1 readonly 0`,
		`54 tmpfs "/under" local 1 readonly 0`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// statfs is asked only where the way there is free of what can hang.
func TestMayStat(t *testing.T) {
	var got []string
	var m mountLine
	for lines := kernel.Scan([]byte(mountinfoFile)); nextMount(&lines, &m); {
		if kindOf(&m) == localMount && mayStat([]byte(mountinfoFile), &m) {
			got = append(got, string(m.point))
		}
	}
	want := []string{"/", `/mnt/with\040blank\134`, "/network", "/btr", "/srv", "/under"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMountsLive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	c := &mounts{}
	r := openLive(t, c)
	root := r.until(c, "of /", func(row liveRow) bool { return row.texts["mountpoint"] == "/" })
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		t.Fatal(err)
	}
	if v := root.values; v["size_bytes"] != st.Blocks*uint64(st.Frsize) || v["files"] != st.Files || v["sized"] != 1 || v["free_bytes"] < v["avail_bytes"] {
		t.Errorf("%v; statfs says %+v", v, st)
	}
	// A new mount shows in the next reading.
	dir := filepath.Join(t.TempDir(), "a blank")
	os.Mkdir(dir, 0o755)
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NODEV, "size=64k"); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	row := r.rows(c)
	unmounted := unix.Unmount(dir, 0)
	i := slices.IndexFunc(row, func(row liveRow) bool { return row.texts["mountpoint"] == dir })
	if i < 0 {
		t.Fatal("the new mount is not shown")
	}
	if v := row[i].values; v["size_bytes"] != 65536 || v["local"] != 1 {
		t.Errorf("%v", v)
	}
	if unmounted != nil {
		t.Fatal(unmounted)
	}
	if slices.ContainsFunc(r.rows(c), func(row liveRow) bool { return row.texts["mountpoint"] == dir }) {
		t.Error("it is gone and still shown")
	}
}

func TestFuseFromTree(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"proc/self/mountinfo": "27 1 254:0 / / rw - ext4 /dev/vda rw\n" +
			"43 27 0:51 / /mnt/ssh rw - fuse.sshfs host:/ rw,user_id=0\n" +
			"44 27 0:51 /x /mnt/again rw - fuse.sshfs host:/ rw,user_id=0\n" +
			"45 27 0:52 / /sys/fs/fuse/connections rw - fusectl fusectl rw\n",
		"sys/fs/fuse/connections/51/waiting": "3\n",
	} {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := hostAt(dir)
	got := outcome(t, &fuse{owners: &owners{}}, h)
	want := "51\n  waiting 3\n  mountpoint \"/mnt/ssh\"\n  pid 0\n  comm \"\"\n  waiting_known 1\n  pid_sure 0\n  fstype \"fuse.sshfs\"\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDaemonOf(t *testing.T) {
	mountinfo := []byte("43 27 0:51 / /a rw - fuse.sshfs h:/ rw\n44 27 0:52 / /b rw - fuse.gvfsd-fuse g rw\n")
	alone := []byte("43 27 0:51 / /a rw - fuse h:/ rw\n")
	sshfs := fuseDaemon{pid: 7, comm: []byte("sshfs")}
	other := fuseDaemon{pid: 8, comm: []byte("python3")}
	exact := fuseDaemon{pid: 9, comm: []byte("x"), connection: 51}
	for _, tt := range []struct {
		name      string
		mountinfo []byte
		daemons   []fuseDaemon
		pid       int32
		sure      uint64
	}{
		{"none", alone, nil, 0, 0},
		{"the only one", alone, []fuseDaemon{other, other}, 8, 1},
		{"by name", mountinfo, []fuseDaemon{other, sshfs}, 7, 1},
		{"the kernel says", mountinfo, []fuseDaemon{sshfs, exact}, 9, 2},
		{"of another connection", alone, []fuseDaemon{{pid: 9, connection: 52}}, 0, 0},
		{"a guess", mountinfo, []fuseDaemon{other}, 8, 0},
	} {
		var m mountLine
		lines := kernel.Scan(tt.mountinfo)
		nextMount(&lines, &m)
		d, sure := daemonOf(tt.daemons, &m, tt.mountinfo)
		var pid int32
		if d != nil {
			pid = d.pid
		}
		if pid != tt.pid || sure != tt.sure {
			t.Errorf("%s: pid %d, sure %d; want %d, %d", tt.name, pid, sure, tt.pid, tt.sure)
		}
	}
}

func BenchmarkLocks(b *testing.B)  { benchmarkOne(b, &locks{}) }
func BenchmarkMounts(b *testing.B) { benchmarkOne(b, &mounts{}) }

func benchmarkOne(b *testing.B, c freezeframe.Collector) {
	if err := c.Open(live()); err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var table freezeframe.Table
	b.ReportAllocs()
	for b.Loop() {
		table.Reset()
		if err := c.Collect(&table); err != nil {
			b.Fatal(err)
		}
	}
}

// A FUSE mount whose daemon, this test, does not even answer the first request.
func TestFuseUnanswered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	defer unix.Close(dev)
	dir, sys := t.TempDir(), t.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev)
	if err := unix.Mount("freezeframe-test", dir, "fuse.unanswered", 0, options); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	control := filepath.Join(sys, "fs/fuse/connections")
	os.MkdirAll(control, 0o755)
	if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(control, unix.MNT_DETACH)

	h := live()
	h.Sys = sys
	c := &fuse{owners: &owners{}}
	if err := c.Open(h); err != nil {
		t.Fatal(err)
	}
	defer closed(t, c)
	if len(c.Source().Needs) != 0 {
		t.Errorf("fusectl is mounted, and yet: %+v", c.Source().Needs)
	}
	r := &reader{t: t, host: h}
	row := r.until(c, "of "+dir, func(row liveRow) bool { return row.texts["mountpoint"] == dir && row.values["pid"] != 0 })
	v := row.values
	if v["waiting"] != 1 || v["waiting_known"] != 1 || row.texts["fstype"] != "fuse.unanswered" {
		t.Errorf("%v", row)
	}
	if v["pid_sure"] > 0 && v["pid"] != uint64(os.Getpid()) {
		t.Errorf("pid %d for sure, want %d", v["pid"], os.Getpid())
	}
	if n := testing.AllocsPerRun(50, func() {
		r.table.Reset()
		if err := c.Collect(&r.table); err != nil {
			t.Error(err)
		}
	}); n != 0 || len(r.table.Keys) == 0 {
		t.Errorf("%v allocations a reading of %d rows", n, len(r.table.Keys))
	}
}
