package machine

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"freezeframe/lab/vm/wire"
)

func TestArgs(t *testing.T) {
	m := &Machine{CPUs: 2, Memory: 2048, Append: "quiet"}
	p := parts{root: "/c/root,1.img", modules: "/c/modules.img", vmlinuz: "/c/vmlinuz", initrd: "/t/initrd", input: "/t/input.tar", console: "/t/console"}
	line := " " + strings.Join(m.args(p), " ") + " "
	for _, want := range []string{
		" -M q35 ", " -accel tcg,thread=multi ", " -cpu max", " -smp 2 ", " -m 2048M ", " -nographic ", " -no-reboot ",
		" -kernel /c/vmlinuz ", " -initrd /t/initrd ", " -serial file:/t/console ",
		"file=/c/root,,1.img,snapshot=on", "file=/c/modules.img,readonly=on", "file=/t/input.tar,readonly=on",
		"serial=root ", "serial=modules ", "serial=input ", "fd=3 ", "name=" + wire.Port + " ", "console=ttyS0", " quiet ",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in%s", want, line)
		}
	}
	if strings.Contains(line, "-icount") || strings.Contains(line, "netdev") || !strings.Contains(line, "-nodefaults") {
		t.Errorf("it counts instructions or has a network:%s", line)
	}
	m.Steady, m.CPUs, m.Shift = true, 1, 3
	line = strings.Join(m.args(p), " ")
	if !strings.Contains(line, "-icount shift=3,") || !strings.Contains(line, "thread=single") {
		t.Errorf("a steady clock is not asked for: %s", line)
	}
}

func TestCheck(t *testing.T) {
	good := Machine{Kernel: DefaultKernel, CPUs: 2, Memory: 2048}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Machine){
		"steady with 2 CPUs": func(m *Machine) { m.Steady = true },
		"no CPU":             func(m *Machine) { m.CPUs = 0 },
		"no memory":          func(m *Machine) { m.Memory = 0 },
		"no kernel":          func(m *Machine) { m.Kernel = "bash" },
		"hostile kernel":     func(m *Machine) { m.Kernel = "linux-image-a --hook=x" },
		"no suite":           func(m *Machine) { m.Kernel = "linux-image-amd64/" },
	} {
		m := good
		change(&m)
		if m.Check() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestKeyChangesWithEveryPart(t *testing.T) {
	if again := RootKey(); again != key(append(append([]string{"root", recipe, Suite, rootSize}, packages...), excluded...)...) {
		t.Error("the same lists have two keys")
	}
	seen := map[string]bool{}
	for _, parts := range [][]string{{"a", "b"}, {"ab"}, {"a", "b", ""}, {"b", "a"}} {
		seen[key(parts...)] = true
	}
	if len(seen) != 4 {
		t.Errorf("4 lists have %d keys", len(seen))
	}
}

const aptList = `http://first/debian/ bookworm main Debian
http://first/debian/ bookworm contrib Debian
http://first/debian/ bookworm-updates main Debian
http://other/pool/ bookworm main Other
http://safe/debian-security/ bookworm-security main Debian
`

func TestSourcesAreDebiansOwn(t *testing.T) {
	for _, c := range []struct {
		name, list, suite, want string
	}{
		{"its release", aptList, "bookworm", "deb http://first/debian/ bookworm main|deb http://safe/debian-security/ bookworm-security main"},
		{"backports", aptList, "bookworm-backports", "deb http://first/debian/ bookworm main|deb http://safe/debian-security/ bookworm-security main|deb http://first/debian/ bookworm-backports main"},
		{"another release", aptList, "bullseye", "deb http://first/debian/ bullseye main|deb http://safe/debian-security/ bullseye-security main"},
		{"no security for sid", aptList, "sid", "deb http://first/debian/ sid main"},
		{"never updated", "http://x/debian/ bookworm main $(ORIGIN)\n", "bookworm", "deb http://x/debian/ bookworm main"},
		{"never updated, another's", "http://x/ubuntu/ noble main $(ORIGIN)\n", "bookworm", ""},
		{"another distribution", "http://x/ubuntu/ noble main Ubuntu\n", "bookworm", ""},
		{"none", "", "bookworm", ""},
	} {
		if got := strings.Join(oneLine(pickSources(c.list, c.suite)), "|"); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestDebstrapArgs(t *testing.T) {
	from := pickSources(aptList, "bookworm-backports")
	args := kernelArgs("/t", "linux-image-amd64", "bookworm-backports", from)
	if !slices.Contains(args, "--include=linux-image-amd64/bookworm-backports") || !slices.Contains(args, "--variant=extract") {
		t.Errorf("backports are not asked for by name: %q", args)
	}
	args = kernelArgs("/t", "linux-image-amd64", "bullseye", nil)
	if i := slices.Index(args, "bullseye"); i < 0 || args[i+1] != "/t" || !slices.Contains(args, "--include=linux-image-amd64") {
		t.Errorf("%q", args)
	}
	root := strings.Join(rootArgs("/t", from), " ")
	for _, want := range []string{"systemd-sysv", "python3", " " + Suite + " /t deb http://first"} {
		if !strings.Contains(root, want) {
			t.Errorf("no %q in %s", want, root)
		}
	}
}

func TestModuleOrder(t *testing.T) {
	dep := `kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko kernel/fs/mbcache.ko
kernel/fs/jbd2/jbd2.ko.xz:
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/drivers/virtio/virtio-pci.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
`
	got, err := moduleOrder(dep, "kernel/drivers/block/virtio_blk.ko\n", []string{"virtio_pci", "virtio_blk", "ext4"}, []string{"crc32c_generic"})
	want := "virtio virtio_pci mbcache crc16 jbd2 ext4"
	var names []string
	for _, path := range got {
		names = append(names, moduleName(path))
	}
	if err != nil || strings.Join(names, " ") != want {
		t.Errorf("%q, %v; want %s", names, err, want)
	}
	if _, err := moduleOrder(dep, "", []string{"virtio_blk"}, nil); err == nil {
		t.Error("a kernel without the disk's driver is accepted")
	}
}

func TestFindKernel(t *testing.T) {
	for name, c := range map[string]struct {
		files              []string
		image, version, in string
	}{
		"bookworm":   {[]string{"boot/vmlinuz-6.1.0-1-amd64", "lib/modules/6.1.0-1-amd64/modules.order"}, "boot/vmlinuz-6.1.0-1-amd64", "6.1.0-1-amd64", "lib/modules"},
		"trixie":     {[]string{"boot/vmlinuz-6.12-amd64", "usr/lib/modules/6.12-amd64/modules.order"}, "boot/vmlinuz-6.12-amd64", "6.12-amd64", "usr/lib/modules"},
		"7.x":        {[]string{"usr/lib/modules/7.3-amd64/vmlinuz"}, "usr/lib/modules/7.3-amd64/vmlinuz", "7.3-amd64", "usr/lib/modules"},
		"two":        {[]string{"boot/vmlinuz-1", "boot/vmlinuz-2", "lib/modules/1/x"}, "", "", ""},
		"none":       {[]string{"lib/modules/1/x"}, "", "", ""},
		"no modules": {[]string{"boot/vmlinuz-1", "lib/modules/2/x"}, "", "", ""},
	} {
		tree := t.TempDir()
		for _, file := range c.files {
			path := filepath.Join(tree, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		image, version, modules, err := findKernel(tree)
		if c.image == "" {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
			continue
		}
		if err != nil || image != filepath.Join(tree, c.image) || version != c.version || modules != filepath.Join(tree, c.in) {
			t.Errorf("%s: %s %s %s %v", name, image, version, modules, err)
		}
	}
}

func TestCpioForm(t *testing.T) {
	var b bytes.Buffer
	if err := writeCpio(&b, []cpioFile{{name: "dev", mode: 0o040755}, {name: "init", mode: 0o100755, data: []byte("hello")}}); err != nil {
		t.Fatal(err)
	}
	// By the kernel's description: a header of 110 bytes, the name with a NUL,
	// both and the data padded to 4.
	text := b.String()
	var names []string
	for len(text) > 0 {
		if !strings.HasPrefix(text, "070701") {
			t.Fatalf("no magic number at %q", text[:min(20, len(text))])
		}
		var size, nameSize int
		for _, f := range []struct {
			at int
			to *int
		}{{6, &size}, {11, &nameSize}} {
			var v uint32
			for _, c := range []byte(text[6+8*f.at : 14+8*f.at]) {
				v = v<<4 | uint32(strings.IndexByte("0123456789abcdef", c))
			}
			*f.to = int(v)
		}
		name := text[110 : 110+nameSize-1]
		names = append(names, name)
		data := (110 + nameSize + 3) &^ 3
		if name == "init" && text[data:data+size] != "hello" {
			t.Errorf("init holds %q", text[data:data+size])
		}
		text = text[(data+size+3)&^3:]
	}
	if strings.Join(names, " ") != "dev init TRAILER!!!" {
		t.Errorf("the archive holds %q", names)
	}
}

func TestInputDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(file, []byte("text"), 0o755); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeInput(&b, wire.Job{Command: "true"}, []Input{{Path: file, Name: "bin/tool"}}); err != nil {
		t.Fatal(err)
	}
	if b.Len()%512 != 0 {
		t.Errorf("%d bytes are no disk", b.Len())
	}
	r := tar.NewReader(&b)
	h, err := r.Next()
	if err != nil || h.Name != wire.JobName {
		t.Fatalf("the first entry is %v, %v", h, err)
	}
	var job wire.Job
	if err := json.NewDecoder(r).Decode(&job); err != nil || job.Command != "true" {
		t.Errorf("the job is %+v, %v", job, err)
	}
	h, err = r.Next()
	if err != nil || h.Name != "bin/tool" || h.Mode != 0o755 {
		t.Errorf("the file is %+v, %v", h, err)
	}
	for _, name := range []string{"../tool", "/tool", "", wire.JobName} {
		if writeInput(io.Discard, job, []Input{{Path: file, Name: name}}) == nil {
			t.Errorf("a file may be called %q", name)
		}
	}
}

// channel is a guest that has said everything already, and keeps what it is told.
type channel struct {
	io.Reader
	told bytes.Buffer
}

func (c *channel) Write(p []byte) (int, error) { return c.told.Write(p) }

func results(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func listenTo(t *testing.T, dir string, say func(*wire.Encoder)) (res Result, out, errs, told string, err error) {
	t.Helper()
	var said, stdout, stderr bytes.Buffer
	say(wire.NewEncoder(&said))
	c := &channel{Reader: &said}
	l := &listener{job: Job{Stdout: &stdout, Stderr: &stderr, Results: dir}, began: time.Now(), started: make(chan time.Duration, 1)}
	err = l.listen(c)
	return l.res, stdout.String(), stderr.String(), c.told.String(), err
}

func TestListen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	res, out, errs, told, err := listenTo(t, dir, func(e *wire.Encoder) {
		e.SendJSON(wire.KindHello, wire.Hello{Kernel: "6.1", State: "running"})
		e.Send(wire.KindStdout, []byte("to out"))
		e.Send(wire.KindStderr, []byte("to err"))
		e.Send(wire.KindResults, results(t, map[string]string{"a/b.json": "{}"}))
		e.SendJSON(wire.KindExit, wire.Exit{Code: 3, TimedOut: true})
	})
	if err != nil || res.Code != 3 || !res.TimedOut || res.Hello.Kernel != "6.1" || out != "to out" || errs != "to err" || told != string(wire.Done) {
		t.Errorf("%+v %q %q told %q: %v", res, out, errs, told, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "a/b.json")); err != nil || string(text) != "{}" {
		t.Errorf("the result is %q, %v", text, err)
	}
}

func TestListenToWhatGoesWrong(t *testing.T) {
	hello := func(e *wire.Encoder) { e.SendJSON(wire.KindHello, wire.Hello{}) }
	for name, say := range map[string]func(*wire.Encoder){
		"dies before the command": func(e *wire.Encoder) {},
		"dies in the middle":      func(e *wire.Encoder) { hello(e); e.Send(wire.KindStdout, []byte("x")) },
		"says it failed":          func(e *wire.Encoder) { e.SendJSON(wire.KindExit, wire.Exit{Code: 255, Err: "no disk"}) },
		"results outside": func(e *wire.Encoder) {
			hello(e)
			e.Send(wire.KindResults, results(t, map[string]string{"../evil": "x"}))
			e.SendJSON(wire.KindExit, wire.Exit{})
		},
		"results cut off": func(e *wire.Encoder) {
			hello(e)
			e.Send(wire.KindResults, results(t, map[string]string{"a": "text"})[:514])
			e.SendJSON(wire.KindExit, wire.Exit{})
		},
	} {
		parent := t.TempDir()
		_, _, _, _, err := listenTo(t, filepath.Join(parent, "out"), say)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(filepath.Join(parent, "evil")); err == nil {
			t.Errorf("%s: it wrote outside of the directory", name)
		}
	}
}

func TestImagesAreMadeOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("images belong to root")
	}
	m := &Machine{Cache: t.TempDir(), Log: io.Discard}
	made := 0
	build := func(dir string) error {
		made++
		return os.WriteFile(filepath.Join(dir, "x"), nil, 0o644)
	}
	for range 2 {
		dir, err := m.image("kernel", "1", build)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	if _, err := m.image("kernel", "bad", func(string) error { return io.ErrUnexpectedEOF }); err == nil {
		t.Error("a build that failed made an image")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(m.Cache, "kernel-1"), old, old); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"2", "3", "4", "5"} {
		if _, err := m.image("kernel", k, build); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(m.Cache, "*"))
	if err != nil || len(left) != keepImages || slices.Contains(left, filepath.Join(m.Cache, "kernel-1")) {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestDataExtents(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("x"), 1<<20)
	for _, at := range []int64{4 << 20, 32 << 20} {
		if _, err := f.WriteAt(text, at); err != nil {
			t.Fatal(err)
		}
	}
	got, err := dataExtents(f.Name())
	if err != nil || got != "4194304 5242880\n33554432 34603008\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestStaleDirectoriesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	mine := scratch + strconv.Itoa(os.Getpid()) + "-1"
	for _, name := range []string{mine, scratch + strconv.Itoa(dead.Process.Pid) + "-1", scratch + "notes", "other-1"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeStale(dir, scratch); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	want := []string{filepath.Join(dir, mine), filepath.Join(dir, scratch+"notes"), filepath.Join(dir, "other-1")}
	slices.Sort(want)
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestConsoleIsPrintable(t *testing.T) {
	if got := printable([]byte("a\x1b[2Jb\r\n\tc\xff")); got != "a[2Jb\n\tc?" {
		t.Errorf("%q", got)
	}
}

// speaker answers as QEMU does.
type speaker struct {
	io.Reader
	told bytes.Buffer
}

func (s *speaker) Write(p []byte) (int, error) { return s.told.Write(p) }

func TestMonitor(t *testing.T) {
	s := &speaker{Reader: strings.NewReader(`{"QMP": {"version": {}}}
{"return": {}}
{"event": "STOP", "timestamp": {"seconds": 1}}
{"return": {}}
{"error": {"class": "GenericError", "desc": "no"}}
`)}
	m := newMonitor(s)
	if err := m.do("stop"); err != nil {
		t.Fatal(err)
	}
	if got := s.told.String(); got != "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"stop\"}\n" {
		t.Errorf("QEMU was told %q", got)
	}
	if err := m.do("cont"); err == nil || !strings.Contains(err.Error(), "QEMU refuses cont: no") {
		t.Errorf("a refusal is %v", err)
	}
	if err := m.do("cont"); err == nil {
		t.Error("a monitor that ended is no error")
	}
}

func TestWhatIsAskedOfTheHost(t *testing.T) {
	for _, pieces := range [][]string{
		{"one\n" + wire.Ask + "pause 2s\ntwo\n"},
		{"one\n\x1f", "host pau", "se 2s\n", "two\n"},
		{"one\n", wire.Ask + "pause 2s\n", "two\n"},
	} {
		var out bytes.Buffer
		var asked []string
		l := &listener{host: &Host{}, job: Job{Stdout: &out, Ask: func(_ *Host, words []string) error {
			asked = append(asked, strings.Join(words, " "))
			return nil
		}}}
		for _, p := range pieces {
			if err := l.stdout([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
		if out.String() != "one\ntwo\n" || strings.Join(asked, ",") != "pause 2s" {
			t.Errorf("%q: passed on %q, asked %q", pieces, out.String(), asked)
		}
	}
	l := &listener{job: Job{Stdout: io.Discard}}
	if err := l.stdout([]byte(wire.Ask + "pause 2s\n")); err == nil {
		t.Error("nobody is there to pause it, and that is no error")
	}
	for _, bad := range [][]string{{}, {"pause"}, {"pause", "1h"}, {"pause", "-1s"}, {"reboot", "1s"}} {
		if (&Host{}).Do(bad) == nil {
			t.Errorf("%q was done", bad)
		}
	}
}

// A steady clock does not run through the waits for a disk of the host's.
func TestSteadyClock(t *testing.T) {
	p := parts{root: "/image", modules: "/m", input: "/i"}
	for disk, want := range map[string]string{"": "-icount shift=3,sleep=off", "/copy": "-icount shift=3,sleep=on"} {
		line := strings.Join((&Machine{CPUs: 1, Steady: true, Shift: 3, Disk: disk}).args(p), " ")
		if !strings.Contains(line, want) {
			t.Errorf("disk %q: no %q in %s", disk, want, line)
		}
	}
}

func TestDiskThatStays(t *testing.T) {
	p := parts{root: "/image", modules: "/m", input: "/i"}
	for disk, want := range map[string]string{"": "file=/image,snapshot=on", "/copy": "file=/copy,cache=directsync"} {
		line := strings.Join((&Machine{CPUs: 1, Disk: disk}).args(p), " ")
		if !strings.Contains(line, want) {
			t.Errorf("disk %q: no %q in %s", disk, want, line)
		}
	}
}
