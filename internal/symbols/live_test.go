package symbols

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cProgram builds testdata/target.c.
func cProgram(t testing.TB, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "target")
	run(t, "gcc", append([]string{"-O1", "-o", out, "testdata/target.c"}, args...)...)
	return out
}

// target is a program that runs and has said where its functions are.
type target struct {
	pid int
	at  map[string]uint64
}

// start runs a program until the test is over.
func start(t testing.TB, path string, attr *syscall.SysProcAttr) target {
	t.Helper()
	cmd := exec.Command(path)
	cmd.SysProcAttr = attr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // Go's println
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the target said nothing: %v", err)
	}
	p := target{cmd.Process.Pid, make(map[string]uint64)}
	fields := strings.Fields(line)
	for i := 0; i+1 < len(fields); i += 2 {
		if p.at[fields[i]], err = strconv.ParseUint(fields[i+1], 0, 64); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// patient is a context for what must succeed, however busy the machine is.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// names resolves the target's addresses, and the same by build id.
func (p target) names(t testing.TB, r *Resolver, what ...string) string {
	t.Helper()
	var frames []Frame
	for _, w := range what {
		if p.at[w] == 0 {
			t.Fatalf("the target did not say where %s is: %v", w, p.at)
		}
		// Two bytes in: frames of callers are looked up one byte before.
		frames = append(frames, Frame{IP: p.at[w] + 2})
	}
	return strings.Join(r.User(patient(t), p.pid, 0, frames), " ")
}

// byBuildID turns an address into what bpf_get_stack gives for it.
func (p target) byBuildID(t testing.TB, r *Resolver, ip uint64) Frame {
	t.Helper()
	key, err := r.keyOf(p.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := New(r.proc).readProcess(key)
	if err != nil {
		t.Fatal(err)
	}
	m := proc.at(ip)
	if m == nil || m.buildID == (BuildID{}) {
		t.Fatalf("no build id for %#x in %+v", ip, m)
	}
	return Frame{BuildID: m.buildID, Offset: ip - m.start + m.off}
}

func TestNativePrograms(t *testing.T) {
	for name, args := range map[string][]string{
		"PIE":            {"-pie", "-fPIE"},
		"fixed address":  {"-no-pie"},
		"without an id":  {"-Wl,--build-id=none"},
		"short build id": {"-Wl,--build-id=md5"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, cProgram(t, args...), nil)
			r := New("/proc")
			if got := p.names(t, r, "outer", "hidden", "fsync"); got != "outer_work hidden_work fsync" {
				t.Errorf("by address: %q", got)
			}
			if got := p.names(t, r, "code"); got != "[anon]" {
				t.Errorf("code in no file: %q", got)
			}
			if got := r.User(patient(t), p.pid, 0, []Frame{{IP: 16}}); got[0] != Unknown {
				t.Errorf("an address in no mapping: %q", got)
			}
			if name == "without an id" {
				return
			}
			// By build id alone: the program through its exe link, and the library
			// once somebody has been seen to have it mapped.
			r = New("/proc")
			frames := []Frame{p.byBuildID(t, r, p.at["outer"]+2), p.byBuildID(t, r, p.at["hidden"]+2)}
			if got := strings.Join(r.User(patient(t), p.pid, 0, frames), " "); got != "outer_work hidden_work" {
				t.Errorf("by build id: %q", got)
			}
			if r.processes.used != 0 {
				t.Error("the mappings were read though the build id said it")
			}
			frames = append(frames, p.byBuildID(t, r, p.at["fsync"]+2), Frame{BuildID: BuildID{1, 2, 3}, Offset: 99})
			if got := strings.Join(r.User(patient(t), p.pid, 0, frames), " "); got != "outer_work hidden_work fsync [unknown]" {
				t.Errorf("by build id with a library: %q", got)
			}
		})
	}
}

// A call that is a function's last instruction returns to the next function.
func TestCallersAreLookedUpBeforeTheReturn(t *testing.T) {
	p := start(t, cProgram(t), nil)
	r := New("/proc")
	f, im := openImageFile(t, fmt.Sprintf("/proc/%d/exe", p.pid))
	key, _ := r.keyOf(p.pid, 0)
	proc, err := r.readProcess(key)
	if err != nil {
		t.Fatal(err)
	}
	m := proc.at(p.at["outer"])
	off := p.at["outer"] - m.start + m.off
	for im.name(f, nil, off) == "outer_work" {
		off++
	}
	end := off - m.off + m.start
	if got := r.User(patient(t), p.pid, 0, []Frame{{IP: p.at["fsync"]}, {IP: end}}); got[1] != "outer_work" {
		t.Errorf("a return address at the end of outer_work is %q", got[1])
	}
	if got := r.User(patient(t), p.pid, 0, []Frame{{IP: end}}); got[0] == "outer_work" {
		t.Error("the innermost address was moved too")
	}
}

func TestStrippedProgram(t *testing.T) {
	whole := cProgram(t, "-Wl,--build-id")
	bare := filepath.Join(t.TempDir(), "target")
	run(t, "strip", "-o", bare, whole)
	p := start(t, bare, nil)
	r := New("/proc")
	r.host = t.TempDir()
	got := p.names(t, r, "outer", "fsync")
	if want := fmt.Sprintf("target+0x%x fsync", p.byBuildID(t, r, p.at["outer"]+2).Offset); got != want {
		t.Errorf("stripped: %q, want %q", got, want)
	}

	// Its debug file by build id, as Debian's -dbgsym packages have it.
	id := p.byBuildID(t, r, p.at["outer"]).BuildID
	name := hex.EncodeToString(id[:])
	dir := filepath.Join(r.host, "usr/lib/debug/.build-id", name[:2])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "objcopy", "--only-keep-debug", whole, filepath.Join(dir, name[2:]+".debug"))
	again := New("/proc")
	again.host = r.host
	for range 2 { // the second time out of what was kept
		if got := p.names(t, again, "outer", "hidden", "fsync"); got != "outer_work hidden_work fsync" {
			t.Errorf("with a debug file: %q", got)
		}
		again.names = newCache[nameKey, string](nameBytes)
	}
	// That of another program is not believed.
	other := cProgram(t, "-Wl,--build-id", "-O0")
	run(t, "objcopy", "--only-keep-debug", other, filepath.Join(dir, name[2:]+".debug"))
	again = New("/proc")
	again.host = r.host
	if got := p.names(t, again, "outer"); !strings.HasPrefix(got, "target+0x") {
		t.Errorf("with the debug file of another program: %q", got)
	}
}

func TestDebugLink(t *testing.T) {
	whole := cProgram(t, "-Wl,--build-id=none")
	dir := t.TempDir()
	bare, debug := filepath.Join(dir, "target"), filepath.Join(dir, ".debug", "target.debug")
	if err := os.Mkdir(filepath.Dir(debug), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "objcopy", "--only-keep-debug", whole, debug)
	run(t, "strip", "-o", bare, whole)
	run(t, "objcopy", "--add-gnu-debuglink="+debug, bare)
	p := start(t, bare, nil)
	if got := p.names(t, New("/proc"), "outer", "hidden"); got != "outer_work hidden_work" {
		t.Errorf("by its debug link: %q", got)
	}
	f, err := os.OpenFile(debug, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("another content"))
	f.Close()
	if got := p.names(t, New("/proc"), "outer"); !strings.HasPrefix(got, "target+0x") {
		t.Errorf("a debug file with another checksum was believed: %q", got)
	}
}

func TestGoPrograms(t *testing.T) {
	for name, args := range map[string][]string{
		"with symbols": nil, "stripped": {"-ldflags=-s -w"}, "stripped PIE": {"-ldflags=-s -w", "-buildmode=pie"},
		// As with cgo: gcc puts its own code in front of Go's.
		"stripped, linked by gcc": {"-ldflags=-s -w -linkmode=external -extldflags=-no-pie"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "gcc") {
				run(t, "gcc", "--version")
				t.Setenv("CGO_ENABLED", "1")
			}
			p := start(t, goProgram(t, args...), nil)
			if got := p.names(t, New("/proc"), "outer", "method"); got != "main.outerWork main.(*worker).run" {
				t.Errorf("%q", got)
			}
		})
	}
}

// The file can be gone, or another one under its name: what is mapped counts.
func TestReplacedProgram(t *testing.T) {
	path := cProgram(t)
	p := start(t, path, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := p.names(t, New("/proc"), "outer"); got != "outer_work" {
		t.Errorf("deleted: %q", got)
	}
}

// What was learned early still names the stack of a process that is gone, by
// the file that its path leads to, if it is the same one.
func TestProcessThatIsGone(t *testing.T) {
	path := cProgram(t, "-Wl,--build-id")
	var frames []Frame
	var pid int
	var began uint64
	r := New("/proc")
	t.Run("alive", func(t *testing.T) {
		p := start(t, path, nil)
		pid = p.pid
		key, err := r.keyOf(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		began = key.start
		frames = []Frame{p.byBuildID(t, r, p.at["outer"]+2), {IP: p.at["hidden"] + 2}}
		if err := r.Snapshot(patient(t), pid, began); err != nil {
			t.Fatal(err)
		}
	})
	if got := strings.Join(r.User(patient(t), pid, began, frames), " "); got != "outer_work hidden_work" {
		t.Errorf("after its end: %q", got)
	}
	if err := r.Snapshot(patient(t), pid, began); err == nil {
		t.Error("the mappings of a process that is gone were read")
	}
	// Another program under its path now.
	run(t, "gcc", "-O0", "-Wl,--build-id", "-o", path, "testdata/target.c")
	r.names = newCache[nameKey, string](nameBytes)
	if got := r.User(patient(t), pid, began, frames[:1]); !strings.HasPrefix(got[0], "target+0x") && got[0] != Unknown {
		t.Errorf("of a file that was replaced: %q", got)
	}
}

func TestAnotherProcessUnderThePid(t *testing.T) {
	p := start(t, cProgram(t), nil)
	r := New("/proc")
	key, err := r.keyOf(p.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.User(patient(t), p.pid, key.start+1, []Frame{{IP: p.at["outer"]}}); got[0] != Unknown {
		t.Errorf("a process with another start has the name %q", got)
	}
	if err := r.Snapshot(patient(t), p.pid, key.start+1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process with another start: %v", err)
	}
}

func TestPerfMapOfAProcess(t *testing.T) {
	p := start(t, cProgram(t), nil)
	path := fmt.Sprintf("/tmp/perf-%d.map", p.pid)
	text := fmt.Sprintf("%x 100 JS:~handle /srv/app.js:1\n", p.at["code"])
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	if got := p.names(t, New("/proc"), "code", "outer"); got != "JS:~handle /srv/app.js:1 outer_work" {
		t.Errorf("%q", got)
	}
	// A link to a file of somebody else's is not followed.
	if err := os.Rename(path, path+".x"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path + ".x") })
	if err := os.Symlink(path+".x", path); err != nil {
		t.Fatal(err)
	}
	if got := p.names(t, New("/proc"), "code"); got != "[anon]" {
		t.Errorf("through a link: %q", got)
	}
	os.Remove(path)
	// Nor does a pipe hold us up.
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := p.names(t, New("/proc"), "code"); got != "[anon]" {
		t.Errorf("through a pipe: %q", got)
	}
	os.Remove(path)
	if os.Getuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	// One that another user has written is not believed.
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got := p.names(t, New("/proc"), "code"); got != "[anon]" {
		t.Errorf("of another user: %q", got)
	}
}

// In a container: another root, another pid, and links that lead out of it.
func TestContainer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make a container")
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	whole := cProgram(t, "-static", "-Wl,--build-id")
	run(t, "strip", "-o", filepath.Join(root, "target"), whole)
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := start(t, "/target", &syscall.SysProcAttr{Chroot: root, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS})
	text := fmt.Sprintf("%x 100 jitted\n", p.at["code"])
	if err := os.WriteFile(filepath.Join(root, "tmp/perf-1.map"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := p.names(t, New("/proc"), "code"); got != "jitted" {
		t.Errorf("the perf map by the pid in the container: %q", got)
	}
	// The debug file in the container, where a link is one of the container's.
	id := p.byBuildID(t, New("/proc"), p.at["outer"]).BuildID
	name := hex.EncodeToString(id[:])
	dir := filepath.Join(root, "usr/lib/debug/.build-id", name[:2])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "objcopy", "--only-keep-debug", whole, filepath.Join(root, "symbols"))
	if err := os.Symlink("/symbols", filepath.Join(dir, name[2:]+".debug")); err != nil {
		t.Fatal(err)
	}
	r := New("/proc")
	r.host = t.TempDir()
	if got := p.names(t, r, "outer", "hidden"); got != "outer_work hidden_work" {
		t.Errorf("the debug file in the container: %q", got)
	}
	if err := os.Rename(filepath.Join(root, "symbols"), whole+".symbols"); err != nil {
		t.Skipf("the directories are on two filesystems: %v", err)
	}
	os.Remove(filepath.Join(dir, name[2:]+".debug"))
	if err := os.Symlink(whole+".symbols", filepath.Join(dir, name[2:]+".debug")); err != nil {
		t.Fatal(err)
	}
	r = New("/proc")
	r.host = t.TempDir()
	if got := p.names(t, r, "outer"); !strings.HasPrefix(got, "target+0x") {
		t.Errorf("a link led out of the container: %q", got)
	}
}

// fakeProc is a process whose mappings never come: the file is a pipe that
// nobody writes to, as a read that waits for mmap_lock.
func fakeProc(t *testing.T, pids ...int) string {
	t.Helper()
	proc := t.TempDir()
	for _, pid := range pids {
		dir := filepath.Join(proc, fmt.Sprint(pid))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		stat := fmt.Sprintf("%d (a (b) c) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0", pid)
		if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/proc/self/exe", filepath.Join(dir, "exe")); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(filepath.Join(dir, "maps"), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // let whoever waits go
			if f, err := os.OpenFile(filepath.Join(dir, "maps"), os.O_RDWR, 0); err == nil {
				time.Sleep(50 * time.Millisecond)
				f.Close()
			}
		})
	}
	return proc
}

func TestStalledProcess(t *testing.T) {
	proc := fakeProc(t, 10, 11, 12, 13, 14)
	r := New(proc)
	// The program's own frames are named without the mappings: here it is this
	// test, which Go links at a fixed address and gives a build id.
	exe, im := openImageFile(t, "/proc/self/exe")
	at := uint64(reflect.ValueOf(TestStalledProcess).Pointer())
	own := Frame{Offset: 0}
	copy(own.BuildID[:], im.buildID)
	for _, s := range im.segments {
		if at >= s.vaddr && at-s.vaddr < s.size {
			own.Offset = at - s.vaddr + s.off + 1
		}
	}
	if own.Offset == 0 || own.BuildID == (BuildID{}) {
		t.Fatalf("%s: no segment for %#x, or no build id", exe.Name(), at)
	}
	frames := []Frame{{IP: 0x1234}, own}
	want := Unknown + " freezeframe/internal/symbols.TestStalledProcess"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if got := strings.Join(r.User(ctx, 10, 777, frames), " "); got != want {
		t.Errorf("of a stalled process: %q, want %q", got, want)
	}
	if len(r.Needs()) != 1 || !strings.Contains(r.Needs()[0].What, "process 10") {
		t.Errorf("needs: %+v", r.Needs())
	}
	// It is not waited for again, and holds one goroutine only.
	if err := r.Snapshot(context.Background(), 10, 777); !errors.Is(err, ErrStuck) {
		t.Errorf("again: %v", err)
	}
	for pid := 11; pid < 10+maxStuck; pid++ {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := r.Snapshot(ctx, pid, 777); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("process %d: %v", pid, err)
		}
		cancel()
	}
	// No more than that many are ever left waiting.
	if err := r.Snapshot(context.Background(), 10+maxStuck, 777); !errors.Is(err, ErrStuck) {
		t.Errorf("one too many: %v", err)
	}
	// When it goes on, so do we.
	f, err := os.OpenFile(filepath.Join(proc, "10", "maps"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("1000-2000 r-xp 00000000 00:00 0 [vdso]\n")
	for range 200 {
		r.mu.Lock()
		n := r.stuck[10]
		r.mu.Unlock()
		if f != nil { // the reader has it open by now, or will see the end
			time.Sleep(10 * time.Millisecond)
			f.Close()
			f = nil
		}
		if n == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if got := r.User(patient(t), 10, 777, frames[:1]); got[0] != "[vdso]" {
		t.Errorf("after the stall: %q", got)
	}
}

func TestForbiddenFilesAreNamed(t *testing.T) {
	r := New("/proc")
	r.failed(&os.PathError{Op: "open", Path: "/proc/1/exe", Err: syscall.EACCES})
	if n := r.Needs(); len(n) != 1 || !strings.Contains(n[0].Fix, "CAP_SYS_ADMIN") {
		t.Errorf("needs: %+v", n)
	}
	r = New("/proc")
	r.failed(&os.PathError{Op: "open", Path: "/proc/1/exe", Err: syscall.ENOENT})
	if n := r.Needs(); len(n) != 0 {
		t.Errorf("a file that is gone is no failure: %+v", n)
	}
}

func TestCacheStaysWithinItsBytes(t *testing.T) {
	c := newCache[int, int](10_000)
	for i := range 1000 {
		c.put(i, i, 40)
		c.get(0)
	}
	if c.used > c.max || len(c.items) != c.order.Len() || len(c.items) != 50 {
		t.Errorf("%d bytes in %d items", c.used, len(c.items))
	}
	if _, ok := c.get(0); !ok {
		t.Error("what is used was dropped")
	}
	if _, ok := c.get(1); ok {
		t.Error("what is not used was kept")
	}
	c.put(5000, 1, 20_000)
	if _, ok := c.get(5000); ok {
		t.Error("what is larger than the cache was kept")
	}
}
