package machine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"freezeframe/lab/vm/wire"

	"golang.org/x/sys/unix"
)

// Prepare makes the images that are missing.
func (m *Machine) Prepare(ctx context.Context) error {
	_, _, err := m.images(ctx)
	return err
}

func (m *Machine) images(ctx context.Context) (root, kernel string, err error) {
	if err := CheckTools(); err != nil {
		return "", "", err
	}
	if root, err = m.root(ctx); err != nil {
		return "", "", err
	}
	kernel, err = m.kernel(ctx)
	return root, kernel, err
}

// scratch and making begin the names of directories that are removed again; the
// process id follows, for those of a process that was killed.
const (
	scratch = "freezeframe-vm-"
	making  = "making-"
)

// parts are the files a machine is started with.
type parts struct {
	root, modules   string
	vmlinuz, initrd string
	input           string // tar
	console         string
}

// Run boots the machine, runs the job and switches it off. An error is the
// machine's; how the command ended is in the result.
func (m *Machine) Run(ctx context.Context, job Job) (res Result, err error) {
	root, kernel, err := m.images(ctx)
	if err != nil {
		return res, err
	}
	if err := removeStale(os.TempDir(), scratch); err != nil {
		return res, err
	}
	dir, err := os.MkdirTemp("", scratch+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return res, err
	}
	defer os.RemoveAll(dir)
	p := parts{
		root: root, modules: filepath.Join(kernel, "modules.img"), vmlinuz: filepath.Join(kernel, "vmlinuz"),
		initrd: filepath.Join(dir, "initrd"), input: filepath.Join(dir, "input.tar"), console: job.Console,
	}
	if p.console == "" {
		p.console = filepath.Join(dir, "console.log")
	}
	var more []cpioFile
	if m.Steady && m.Disk == "" {
		list, err := dataExtents(root)
		if err != nil {
			return res, fmt.Errorf("find the data in %s: %w", root, err)
		}
		more = append(more, cpioFile{name: wire.ExtentsName, mode: 0o100644, data: []byte(list)})
	}
	if err := makeInitrd(ctx, kernel, dir, p.initrd, more); err != nil {
		return res, fmt.Errorf("make the initial RAM disk: %w", err)
	}
	if err := makeInput(p.input, job.Job, job.Inputs); err != nil {
		return res, fmt.Errorf("make the input disk: %w", err)
	}
	res, err = m.boot(ctx, p, job)
	if err != nil {
		if text, e := os.ReadFile(p.console); e == nil && len(bytes.TrimSpace(text)) > 0 {
			err = fmt.Errorf("%w\nthe console's last lines:\n%s", err, lastLines(printable(text), 30))
		}
	}
	return res, err
}

// printable keeps a console's log from doing something to a terminal.
func printable(text []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
}

// makeInitrd builds the guest program and packs it with the kernel's modules.
func makeInitrd(ctx context.Context, kernel, dir, to string, more []cpioFile) error {
	guest := filepath.Join(dir, "guest")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", guest, "freezeframe/lab/vm/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest program (run this inside the repository): %w: %s", err, lastLines(string(out), 8))
	}
	init, err := os.ReadFile(guest)
	if err != nil {
		return err
	}
	files, err := readModules(filepath.Join(kernel, "initrd"))
	if err != nil {
		return err
	}
	files = append([]cpioFile{
		{name: "dev", mode: 0o040755}, {name: "proc", mode: 0o040755}, {name: "sys", mode: 0o040755}, {name: "modules", mode: 0o040755},
		{name: "init", mode: 0o100755, data: init},
	}, append(files, more...)...)
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(writeCpio(f, files), f.Close())
}

// dataExtents lists where a sparse file has data (lseek(2), SEEK_DATA), as
// wire.ExtentsName wants it.
func dataExtents(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var list strings.Builder
	fd := int(f.Fd())
	for end := int64(0); ; {
		start, err := unix.Seek(fd, end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no more
			return list.String(), nil
		}
		if err != nil {
			return "", err
		}
		if end, err = unix.Seek(fd, start, unix.SEEK_HOLE); err != nil {
			return "", err
		}
		fmt.Fprintf(&list, "%d %d\n", start, end)
	}
}

// makeInput writes the input disk: the job, then the files.
func makeInput(to string, job wire.Job, inputs []Input) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(writeInput(f, job, inputs), f.Close())
}

func writeInput(to io.Writer, job wire.Job, inputs []Input) error {
	w := tar.NewWriter(to)
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: wire.JobName, Mode: 0o644, Size: int64(len(text))}); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	for _, in := range inputs {
		if !filepath.IsLocal(in.Name) || in.Name == wire.JobName {
			return fmt.Errorf("%q is no name for a file in the machine", in.Name)
		}
		if err := writeFile(w, in); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeFile(w *tar.Writer, in Input) error {
	f, err := os.Open(in.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", in.Path)
	}
	if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(in.Name), Mode: int64(info.Mode().Perm()), Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, info.Size())
	return err
}

// The descriptors that QEMU gets: for the serial port and for its monitor.
const (
	channelFD = 3
	monitorFD = 4
)

// args is QEMU's command line: emulation, direct kernel boot, no network.
func (m *Machine) args(p parts) []string {
	drive := func(id, file, more string) []string {
		return []string{
			"-drive", "if=none,id=" + id + ",format=raw,file=" + strings.ReplaceAll(file, ",", ",,") + more,
			"-device", "virtio-blk-pci,drive=" + id + ",serial=" + id,
		}
	}
	threads := "multi"
	if m.Steady {
		threads = "single"
	}
	args := []string{
		"-M", "q35", "-accel", "tcg,thread=" + threads, "-cpu", "max,la57=off", "-smp", strconv.Itoa(m.CPUs), "-m", strconv.Itoa(m.Memory) + "M",
		"-nographic", "-nodefaults", "-no-reboot", "-monitor", "none",
		"-serial", "file:" + p.console,
		"-kernel", p.vmlinuz, "-initrd", p.initrd, "-append", m.cmdline(),
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=channel,fd=" + strconv.Itoa(channelFD),
		"-device", "virtserialport,chardev=channel,name=" + wire.Port,
		"-chardev", "socket,id=monitor,fd=" + strconv.Itoa(monitorFD), "-mon", "chardev=monitor,mode=control",
	}
	if m.Steady {
		// Its time is what it executed: 2^shift ns an instruction; waiting for
		// a timer takes no time at all, but where there is a disk of the host's
		// to wait for: that would seem to take for ever.
		sleep := "off"
		if m.Disk != "" {
			sleep = "on"
		}
		args = append(args, "-icount", "shift="+strconv.Itoa(m.Shift)+",sleep="+sleep)
	}
	if m.Disk != "" {
		// What is written is on the host's disk when the guest is told so: QEMU
		// can be killed, and loses what a disk loses with its power.
		args = append(args, drive(wire.RootDisk, m.Disk, ",cache=directsync")...)
	} else {
		// What the machine writes to its root is gone with it.
		args = append(args, drive(wire.RootDisk, p.root, ",snapshot=on,cache=unsafe")...)
	}
	args = append(args, drive(wire.ModulesDisk, p.modules, ",readonly=on")...)
	return append(args, drive(wire.InputDisk, p.input, ",readonly=on")...)
}

func (m *Machine) cmdline() string {
	line := []string{
		"console=ttyS0", "loglevel=4", "panic=-1", "net.ifnames=0", "random.trust_cpu=on",
		"mitigations=off", // they make emulation slower, and protect nothing here
		"systemd.show_status=error", "systemd.hostname=freezeframe-vm",
	}
	if m.Append != "" {
		line = append(line, m.Append)
	}
	return strings.Join(line, " ")
}

// boot starts QEMU, listens to the guest until it has said all, and ends it.
func (m *Machine) boot(ctx context.Context, p parts, job Job) (res Result, err error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return res, err
	}
	defer ours.Close()
	monitor, theirMonitor, err := socketpair()
	if err != nil {
		theirs.Close()
		return res, err
	}
	defer monitor.Close()
	path, err := lookPath("qemu-system-x86_64")
	if err != nil {
		theirs.Close()
		theirMonitor.Close()
		return res, err
	}
	var said bytes.Buffer
	cmd := exec.Command(path, m.args(p)...)
	cmd.ExtraFiles = []*os.File{theirs, theirMonitor} // descriptors 3 and 4
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	died, err := startForLife(cmd)
	theirs.Close()
	theirMonitor.Close()
	if err != nil {
		return res, fmt.Errorf("start QEMU: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill() // this process, by its id; it may have ended
		if e := <-died; err != nil && said.Len() > 0 {
			err = fmt.Errorf("%w\nQEMU (%v) said: %s", err, e, lastLines(printable(said.Bytes()), 8))
		}
	}()

	heard := make(chan error, 1)
	started := make(chan time.Duration, 1)
	l := &listener{job: job, began: began, started: started, host: &Host{monitor: newMonitor(monitor), process: cmd.Process, cut: make(chan struct{}, 1)}}
	go func() { heard <- l.listen(ours) }()
	limit := time.NewTimer(m.Boot)
	defer limit.Stop()
	what := fmt.Sprintf("the machine did not start within %v", m.Boot)
	running := false
	for {
		select {
		case <-l.host.cut:
			l.res.Cut = time.Now()
			if err := cmd.Process.Kill(); err != nil {
				return l.res, fmt.Errorf("take the power away: %w", err)
			}
			<-heard // its words until then
			return l.res, nil
		case <-started:
			m.logf("%s started the command after %.1f s (systemd %s%s)", l.res.Hello.Kernel, l.res.Boot.Seconds(), l.res.Hello.State, failedUnits(l.res.Hello.Failed))
			running = true
			limit.Reset(job.Limit)
		case err := <-heard:
			if err == nil {
				// It has been told that all is here and switches itself off.
				select {
				case e := <-died:
					died <- e
				case <-time.After(20 * time.Second):
					m.logf("the machine did not switch itself off: it was killed")
				}
			}
			return l.res, err
		case <-limit.C:
			if !running {
				return res, errors.New(what)
			}
			// It ends the command and says what there is until now.
			if _, err := ours.Write([]byte{wire.Stop}); err != nil {
				return res, fmt.Errorf("end the command after %v: %w", job.Limit, err)
			}
			running = false
			limit.Reset(grace)
			what = fmt.Sprintf("the machine did not end the command within %v of its limit of %v", grace, job.Limit)
		case <-ctx.Done():
			return res, ctx.Err()
		}
	}
}

// grace is the machine's for ending a command whose time is over, and for
// sending what it left.
const grace = 2 * time.Minute

func failedUnits(lines string) string {
	if lines == "" {
		return ""
	}
	var names []string
	for line := range strings.Lines(lines) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, printable([]byte(f[0])))
		}
	}
	return ", failed: " + strings.Join(names, " ")
}

// startForLife starts a process that is killed when this one dies, however it
// dies: the signal comes when the thread that started it ends, so that thread
// stays. What is returned yields how the process ended.
func startForLife(cmd *exec.Cmd) (died chan error, err error) {
	started := make(chan error)
	died = make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			died <- cmd.Wait()
		}
	}()
	return died, <-started
}

func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the channel: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that Close ends a Read
		return nil, nil, fmt.Errorf("make the channel: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel of QEMU"), nil
}

// listener takes what the guest says.
type listener struct {
	job     Job
	began   time.Time
	started chan<- time.Duration
	host    *Host
	res     Result
	hello   time.Time
	line    []byte // of standard output, as far as it may be for the host
}

// stdout passes the command's standard output on, without the lines that are
// for the host: those are done, one after the other, while it goes on.
func (l *listener) stdout(data []byte) error {
	for _, part := range bytes.SplitAfter(data, []byte("\n")) {
		l.line = append(l.line, part...)
		if len(l.line) <= len(wire.Ask) && strings.HasPrefix(wire.Ask, string(l.line)) {
			continue // too early to tell
		}
		ask := bytes.HasPrefix(l.line, []byte(wire.Ask))
		if ask && !bytes.HasSuffix(l.line, []byte("\n")) {
			continue
		}
		if !ask {
			if _, err := l.job.Stdout.Write(l.line); err != nil {
				return err
			}
		} else if err := l.ask(strings.Fields(string(l.line[len(wire.Ask):]))); err != nil {
			return err
		}
		l.line = l.line[:0]
	}
	return nil
}

func (l *listener) ask(words []string) error {
	if l.job.Ask == nil || l.host == nil {
		return fmt.Errorf("the command asks the host for %q, and nobody is there to do it", words)
	}
	if err := l.job.Ask(l.host, words); err != nil {
		return fmt.Errorf("do what the command asks for, %q: %w", words, err)
	}
	return nil
}

// listen returns when the guest has said that the command ended and all that
// it left is here.
func (l *listener) listen(channel io.ReadWriter) error {
	frames := wire.NewDecoder(channel)
	results, feed := io.Pipe()
	unpacked := make(chan error, 1)
	got := false
	go func() {
		err := unpackResults(results, l.job.Results)
		results.CloseWithError(err) // the rest is refused, too
		unpacked <- err
	}()
	defer feed.Close()
	for {
		kind, data, err := frames.Next()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
				err = errors.New("the machine ended before the command did")
			}
			return err
		}
		switch kind {
		case wire.KindHello:
			if err := json.Unmarshal(data, &l.res.Hello); err != nil {
				return fmt.Errorf("read the guest's hello: %w", err)
			}
			l.hello = time.Now()
			l.res.Boot = l.hello.Sub(l.began)
			l.started <- l.res.Boot
		case wire.KindStdout:
			err = l.stdout(data)
		case wire.KindStderr:
			_, err = l.job.Stderr.Write(data)
		case wire.KindResults:
			got = true
			_, err = feed.Write(data)
		case wire.KindExit:
			if err := json.Unmarshal(data, &l.res.Exit); err != nil {
				return fmt.Errorf("read the guest's result: %w", err)
			}
			if !l.hello.IsZero() {
				l.res.Ran = time.Since(l.hello)
			}
			feed.Close()
			if err := <-unpacked; err != nil && got {
				return fmt.Errorf("unpack the results: %w", err)
			}
			if _, err := channel.Write([]byte{wire.Done}); err != nil {
				return fmt.Errorf("let the machine go: %w", err)
			}
			if l.res.Err != "" {
				return fmt.Errorf("in the machine: %s", l.res.Err)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("take the guest's output: %w", err)
		}
	}
}

// unpackResults writes the regular files of an archive below dir, nowhere
// else; without a dir it only reads.
func unpackResults(from io.Reader, dir string) error {
	r := tar.NewReader(from)
	var root *os.Root
	for {
		h, err := r.Next()
		if err == io.EOF {
			// What pads the archive has to be read as well.
			_, err := io.Copy(io.Discard, from)
			return err
		}
		if err != nil {
			return err
		}
		if dir == "" || h.Typeflag != tar.TypeReg {
			continue
		}
		if root == nil {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if root, err = os.OpenRoot(dir); err != nil {
				return err
			}
			defer root.Close()
		}
		name := filepath.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%q would lie outside of the directory", h.Name)
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.Create(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
