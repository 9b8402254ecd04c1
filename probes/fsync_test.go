package probes

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"

	"golang.org/x/sys/unix"
)

const sampleMountinfo = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
31 23 0:28 / /run rw - tmpfs tmpfs rw,mode=755
40 27 254:16 / /data rw,noatime shared:7 master:2 - xfs /dev/vdb rw
41 27 254:16 /sub /srv/very/long/bind rw - xfs /dev/vdb rw
42 27 254:32 / /mnt/with\040blank\134 rw - ext4 /dev/vdc rw
43 27 254:48 / /cdrom ro - ext4 /dev/vdd ro
44 27 254:64 / /bad rw - ext4 /dev/vde ro,errors=remount-ro
45 27 0:50 / /net rw - nfs4 server:/x rw
46 27 0:51 / /fuse rw - fuse.sshfs me@host:/ rw
47 27 254:80 / /under rw - ext4 /dev/vdf rw
48 27 0:52 / /under rw - tmpfs tmpfs rw
not a line
49 27 x:y / /odd rw - ext4 /dev/vdg rw
50 27 254:96 / /short rw`

func TestFsyncMounts(t *testing.T) {
	all := parseMounts([]byte(sampleMountinfo))
	points := func(ms []mount) string {
		var out []string
		for _, m := range ms {
			out = append(out, m.point)
		}
		return strings.Join(out, " ")
	}
	for _, tc := range []struct {
		name    string
		skip    []string
		network bool
		want    string
	}{
		{"one for each device; nothing read-only, remote or hidden", nil, false, `/ /data /mnt/with blank\`},
		{"opted out", []string{"/data"}, false, `/ /mnt/with blank\`},
		{"a bind mount of it opted out", []string{"/srv/very/long/bind"}, false, `/ /mnt/with blank\`},
		{"network asked for", nil, true, `/ /data /mnt/with blank\ /net /fuse`},
	} {
		if got := points(fsyncMounts(all, tc.skip, tc.network)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if all[3].dev != 254<<20|16 || all[3].source != "/dev/vdb" || all[3].fstype != "xfs" {
		t.Errorf("%+v", all[3])
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte(sampleMountinfo))
	f.Add([]byte("1 2 3:4 \\0 \\777 ro - a b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range fsyncMounts(parseMounts(b), []string{"/"}, true) {
			if m.point == "" || m.readonly {
				t.Errorf("%+v", m)
			}
		}
	})
}

// loopFilesystem mounts a fresh ext4 of 16 MiB and returns its directory.
func loopFilesystem(t *testing.T) string {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("needs root to mount a filesystem")
	}
	dir := t.TempDir()
	image, point := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	file.Close()
	run("mkfs.ext4", "-q", "-F", image)
	run("mount", "-o", "loop", image, point)
	t.Cleanup(func() {
		exec.Command("fsfreeze", "-u", point).Run()
		if err := unix.Unmount(point, 0); err != nil && err != unix.EINVAL {
			t.Errorf("umount %s: %v", point, err)
		}
	})
	return point
}

// otherMounts is every mount but one, so that a test writes nowhere else.
func otherMounts(t *testing.T, point string) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range parseMounts(b) {
		if m.point != point {
			out = append(out, m.point)
		}
	}
	return out
}

func TestFsyncOnAFrozenFilesystem(t *testing.T) {
	point := loopFilesystem(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var c collected
	h := newHub(Options{FsyncSkip: otherMounts(t, point), Events: c.event})
	go (&heartbeat{hub: h}).Run(ctx, func(freezeframe.Lateness) {})
	ended := make(chan error)
	go func() { ended <- (&fsync{hub: h}).Run(ctx, c.add) }()
	time.Sleep(1500 * time.Millisecond)
	if out, err := exec.Command("fsfreeze", "-f", point).CombinedOutput(); err != nil {
		t.Fatalf("fsfreeze: %v\n%s", err, out)
	}
	in := c.until(t, "in flight while frozen", func(l freezeframe.Lateness) bool { return l.Done == 0 && l.Late() > 300*time.Millisecond })
	if in.Probe != "fsync" || in.Target != point || in.Floor != fsyncFloor {
		t.Errorf("%+v", in)
	}
	if out, err := exec.Command("fsfreeze", "-u", point).CombinedOutput(); err != nil {
		t.Fatalf("fsfreeze -u: %v\n%s", err, out)
	}
	c.until(t, "done after the thaw", func(l freezeframe.Lateness) bool { return l.Done != 0 && l.Began == in.Began })

	// The probe must neither keep the filesystem mounted nor miss that it goes.
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatalf("umount while the probe writes: %v", err)
	}
	for i := 0; used(h) > 1; i++ {
		if i > 500 {
			t.Fatal("the thread of an unmounted filesystem is still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFsyncOnAFullFilesystem(t *testing.T) {
	point := loopFilesystem(t)
	ctx, cancel := context.WithCancel(t.Context())
	var c collected
	h := newHub(Options{FsyncSkip: otherMounts(t, point), Events: c.event})
	ended := make(chan error)
	go func() { ended <- (&fsync{hub: h}).Run(ctx, c.add) }()
	defer func() { cancel(); <-ended; waitUnused(t, h) }()
	time.Sleep(1200 * time.Millisecond)
	fill(t, filepath.Join(point, "fill"))
	l := c.until(t, "refused", func(l freezeframe.Lateness) bool { return l.Err != "" })
	if l.Err != "ENOSPC" || l.Target != point {
		t.Errorf("%+v", l)
	}
}

func TestFsyncOnAFilesystemThatWasFull(t *testing.T) {
	point := loopFilesystem(t)
	fill(t, filepath.Join(point, "fill"))
	ctx, cancel := context.WithCancel(t.Context())
	var c collected
	h := newHub(Options{FsyncSkip: otherMounts(t, point), Events: c.event})
	ended := make(chan error)
	go func() { ended <- (&fsync{hub: h}).Run(ctx, c.add) }()
	defer func() { cancel(); <-ended; waitUnused(t, h) }()
	time.Sleep(1500 * time.Millisecond)
	c.Lock()
	defer c.Unlock()
	if len(c.late) != 0 {
		t.Errorf("no news: %+v", c.late)
	}
	if len(c.events) == 0 || c.events[0].Kind != freezeframe.EventRefused {
		t.Errorf("events %+v, want that writing was refused", c.events)
	}
}

// syncing runs the probe on one filesystem until stop is called.
func syncing(t *testing.T, point string, o Options) (c *collected, stop func()) {
	t.Helper()
	c = &collected{}
	o.FsyncSkip, o.Events = otherMounts(t, point), c.event
	h := newHub(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- (&fsync{hub: h}).Run(ctx, c.add) }()
	return c, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		waitUnused(t, h)
	}
}

// written waits until a file is written to.
func written(t *testing.T, path string) {
	t.Helper()
	from := time.Now()
	for info, err := os.Stat(path); err != nil || info.Size() != 8 || info.ModTime().Before(from); info, err = os.Stat(path) {
		if time.Since(from) > 10*time.Second {
			t.Fatalf("%s is not written: %v", path, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// remount mounts a filesystem anew. One that is just being written to is busy
// for as long as that takes, and no longer.
func remount(t *testing.T, point, options string) {
	t.Helper()
	for from := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		out, err := exec.Command("mount", "-o", "remount,"+options, point).CombinedOutput()
		if err == nil {
			return
		}
		if time.Since(from) > 5*time.Second {
			t.Fatalf("remount %s: %v: %s", options, err, out)
		}
	}
}

func TestFsyncLetsItsFilesystemBeMadeReadOnly(t *testing.T) {
	point := loopFilesystem(t)
	c, stop := syncing(t, point, Options{})
	file := filepath.Join(point, ".freezeframe-sync-0")
	for range 5 {
		written(t, file)
		remount(t, point, "ro")
		time.Sleep(700 * time.Millisecond) // one would have come
		remount(t, point, "rw")
	}
	written(t, file)
	stop()
	for _, l := range c.late {
		if l.Err != "" {
			t.Errorf("somebody wanted it so, and yet: %+v", l)
		}
	}
	for _, e := range c.events {
		t.Errorf("somebody wanted it so, and yet: %s", e.Text)
	}
	if _, err := os.Stat(file); err == nil {
		t.Errorf("%s is left", file)
	}
}

func TestFsyncOnAFilesystemThatFailed(t *testing.T) {
	point := loopFilesystem(t)
	source := ""
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range parseMounts(b) {
		if m.point == point {
			source = filepath.Base(m.source)
		}
	}
	remount(t, point, "errors=remount-ro")
	c, stop := syncing(t, point, Options{})
	defer stop()
	written(t, filepath.Join(point, ".freezeframe-sync-0"))
	if err := os.WriteFile("/sys/fs/ext4/"+source+"/trigger_fs_error", []byte("test"), 0); err != nil {
		t.Fatal(err)
	}
	first := c.until(t, "refused", func(l freezeframe.Lateness) bool { return l.Err == "EROFS" && l.Target == point })
	again := c.until(t, "refused again", func(l freezeframe.Lateness) bool { return l.Err == "EROFS" && l.Done != first.Done })
	if again.Began != first.Began || again.Done.Sub(first.Done) < 4*time.Second {
		t.Errorf("refused since %v at %v, and then since %v at %v: want that to be one failure, and 5 s between two tries", first.Began, first.Done, again.Began, again.Done)
	}
}

func TestFsyncFiles(t *testing.T) {
	point := loopFilesystem(t)
	own := filepath.Join(point, "var", "own")
	name := func(dir string, n string) string { return filepath.Join(dir, ".freezeframe-sync-"+n) }
	var stops []func()
	begin := func(o Options) {
		_, stop := syncing(t, point, o)
		stops = append(stops, stop)
	}
	// What a process that was killed has left is taken; what is another's is not:
	// a link, a file with two names, a directory, more than we write.
	precious := filepath.Join(point, "precious")
	for path, text := range map[string]string{name(point, "0"): "", precious: "1", name(point, "5"): "0123456789"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{os.Link(precious, name(point, "1")), os.Symlink("precious", name(point, "2")), os.Mkdir(name(point, "3"), 0o755), os.WriteFile(name(point, "4"), nil, 0o600), os.Chown(name(point, "4"), 7, 7)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	begin(Options{FsyncDirs: []string{own, "/nowhere"}})
	written(t, name(point, "0"))
	begin(Options{})
	written(t, name(point, "6"))
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	begin(Options{FsyncDirs: []string{"/", own}})
	written(t, name(own, "0"))
	// Removed, it is made again.
	if err := os.Remove(name(own, "0")); err != nil {
		t.Fatal(err)
	}
	written(t, name(own, "0"))
	for _, stop := range stops {
		stop()
	}
	for _, path := range []string{name(point, "0"), name(point, "6"), name(own, "0")} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	if text, err := os.ReadFile(precious); err != nil || string(text) != "1" {
		t.Errorf("another's file has %q: %v", text, err)
	}
}

func waitUnused(t *testing.T, h *hub) {
	for i := 0; used(h) > 0; i++ {
		if i > 500 {
			t.Fatal("a thread is still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for size := len(block); size >= 512; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	f.Sync()
}

// A write that was refused while somebody mounted the filesystem read-only is no
// incident; one that was refused for anything else is.
func TestFsyncForgivesWhoMountsReadOnly(t *testing.T) {
	point := loopFilesystem(t)
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	all := parseMounts(b)
	i := slices.IndexFunc(all, func(m mount) bool { return m.point == point })
	if i < 0 {
		t.Fatalf("%s is not among the mounts", point)
	}
	for _, want := range []bool{true, false} {
		remount(t, point, map[bool]string{true: "ro", false: "rw"}[want])
		if got := madeReadOnly(all[i]); got != want {
			t.Errorf("made read-only: %v, want %v", got, want)
		}
		told := 0
		j := &job{worker: &worker{}, hub: newHub(Options{}), probe: "fsync", target: point, forgive: func(freezeframe.Lateness) bool { return want }}
		j.tell(note{kind: noteFailed, value: int64(unix.EROFS), good: 1}, func(freezeframe.Lateness) { told++ })
		if told != map[bool]int{true: 0, false: 1}[want] {
			t.Errorf("forgiven %v: told %d times", want, told)
		}
	}
}
