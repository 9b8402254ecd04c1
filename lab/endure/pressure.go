package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab"

	"golang.org/x/sys/unix"
)

//go:embed crowd.c
var crowdSource []byte

const (
	// hogMiB is the limit of the group in which memory is exhausted.
	hogMiB = 96
	// crowdMemory is what a crowd of processes may take, in bytes, and crowdRoom
	// how many process ids it leaves to others.
	crowdMemory = 2560 << 20
	crowdRoom   = 4000
	// crowdStep is how many are forked before it is looked again at what they take.
	crowdStep = 500
	// crowdMost is how long one such step may take.
	crowdMost = 2 * time.Minute
)

var memory = condition{
	name: "memory", about: "the memory of a control group is exhausted again and again: the kernel kills who is in it",
	needs: func(rates) error { return lab.HasController("memory") },
	make: func(t *trial) (step, end func()) {
		group := t.Cgroup("memory")
		group.MemoryMax(hogMiB << 20)
		var one *lab.Proc
		var next time.Time
		gone := 0
		leave := func() {
			if one == nil {
				return
			}
			t.Check(one.Kill()) // a number that is free again must not be taken for it
			one, gone = nil, gone+1
			next = time.Now().Add(t.rates.hogEvery)
		}
		return func() {
				if one != nil {
					if _, dead := one.Dead(); dead {
						leave()
					}
					return
				}
				if time.Now().Before(next) {
					return
				}
				one = t.Start(lab.Cmd{Name: "hog", Role: "hog", Args: []string{strconv.Itoa(4 * hogMiB)}, Place: lab.Place{Cgroups: []string{group.Dir}}})
				t.Check(one.Say("go"))
			}, func() {
				leave()
				t.f.Meant += killedIn(t, group)
				t.note("%d processes filled %d MiB, the kernel killed %d of them", gone, hogMiB, t.f.Meant)
				if t.f.Meant == 0 {
					t.wrong("the kernel killed nobody: memory was not exhausted")
				}
			}
	},
}

// killedIn is how many processes of a group the kernel has killed for memory.
func killedIn(t *trial, group *lab.Cgroup) int64 {
	file := "memory.oom_control"
	if group.V2 {
		file = "memory.events"
	}
	return field(group.Get(file), "oom_kill")
}

// hog takes so many MiB when it is told to go.
func hog(args []string) {
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var kept [][]byte
	lab.Listen("", func(string) {
		for range mib {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += os.Getpagesize() {
				b[i] = 1
			}
			kept = append(kept, b)
		}
		fmt.Println(len(kept)) // never, where the group is smaller
	})
}

var processes = condition{
	name: "processes", about: "20,000 processes that do nothing",
	needs: func(r rates) error {
		if err := canCompile(); err != nil {
			return err
		}
		if err := lab.HasController("memory"); err != nil {
			return err
		}
		most, err := mostProcesses()
		if err != nil {
			return err
		}
		if r.processes+crowdRoom > most {
			return fmt.Errorf("%d more processes would not leave room for others, of %d that can be had (/proc/sys/kernel/pid_max, threads-max)", r.processes, most)
		}
		return nil
	},
	make: func(t *trial) (step, end func()) {
		group := t.Cgroup("memory")
		group.MemoryMax(crowdMemory)
		before, began := available(), time.Now()
		crowd := t.Start(lab.Cmd{Path: t.compile(), Place: lab.Place{Cgroups: []string{group.Dir}}})
		for n := 0; n < t.rates.processes; {
			t.bearable()
			n = min(n+crowdStep, t.rates.processes)
			answer, err := crowd.Ask(strconv.Itoa(n), crowdMost)
			t.Check(err)
			if answer != strconv.Itoa(n) {
				t.Fail("wanted %d processes, the answer is %q", n, answer)
			}
		}
		t.note("%d processes after %s, which take %d MiB", t.rates.processes, seconds(time.Since(began)), (before-available())>>20)
		return nil, func() {
			_, err := crowd.Ask("end", time.Minute)
			t.Check(errors.Join(err, t.over(crowd)))
		}
	},
}

// mostProcesses is how many more processes the machine's limits allow.
func mostProcesses() (int, error) {
	most := 1 << 30
	for _, name := range []string{"pid_max", "threads-max"} {
		text, err := os.ReadFile("/proc/sys/kernel/" + name)
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", name, err)
		}
		most = min(most, n)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	_, tasks, err := tasksOf(string(load))
	return most - tasks, err
}

// tasksOf is how many tasks want a CPU, and how many there are, by /proc/loadavg:
// "0.5 0.4 0.3 1/186 4711".
func tasksOf(load string) (running, all int, err error) {
	f := strings.Fields(load)
	if len(f) < 4 {
		return 0, 0, fmt.Errorf("a load average of %d fields: %q", len(f), load)
	}
	if _, err := fmt.Sscanf(f[3], "%d/%d", &running, &all); err != nil {
		return 0, 0, fmt.Errorf("the tasks of the load average %q: %w", load, err)
	}
	return running, all, nil
}

// over waits until a program that was told to end has, and forgets its number.
func (t *trial) over(p *lab.Proc) error {
	err := until(time.Minute, func() error {
		if _, dead := p.Dead(); !dead {
			return fmt.Errorf("%s, process %d, does not end", p.Name, p.PID)
		}
		return nil
	})
	return errors.Join(err, p.Kill())
}

func canCompile() error {
	if _, err := exec.LookPath("gcc"); err != nil {
		return fmt.Errorf("needs a C compiler: %w (apt-get install gcc libc6-dev)", err)
	}
	return nil
}

// compile makes the program of crowds, once.
func (t *trial) compile() string {
	program := filepath.Join(t.Dir, "crowd")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	program, err := compileIn(t.Dir)
	t.Check(err)
	return program
}

func compileIn(dir string) (string, error) {
	source, program := filepath.Join(dir, "crowd.c"), filepath.Join(dir, "crowd")
	if err := os.WriteFile(source, crowdSource, 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile crowd.c: %w: %s", err, out)
	}
	return program, nil
}

var forks = condition{
	name: "forks", about: "200 programs are started a second, and end soon",
	needs: func(rates) error { return canCompile() },
	make: func(t *trial) (step, end func()) {
		began := time.Now()
		p := t.Start(lab.Cmd{Path: t.compile(), Args: []string{"forks", strconv.Itoa(t.rates.forks)}})
		return nil, func() {
			answer, err := p.Ask("end", 10*time.Second)
			t.Check(errors.Join(err, t.over(p)))
			n, err := strconv.Atoi(answer)
			t.Check(err)
			rate := float64(n) / time.Since(began).Seconds()
			t.note("%d programs were started, %.0f a second", n, rate)
			if rate < float64(t.rates.forks)*0.8 {
				t.wrong("only %.0f programs were started a second", rate)
			}
		}
	},
}

// kernelLog writes as a program of user space does, at a level that no console
// shows.
var kernelLog = condition{
	name: "kernel-log", about: "50,000 lines come into the kernel's log",
	needs: func(rates) error {
		_, err := os.Stat("/proc/sys/kernel/printk_devkmsg")
		return err
	},
	make: func(t *trial) (step, end func()) {
		restore := t.admitLines()
		fd, err := unix.Open("/dev/kmsg", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		t.Check(err)
		began, n, last := time.Now(), 0, ""
		mark := t.Name("line")
		write := func(due int) {
			for ; n < min(due, t.rates.lines); n++ {
				last = fmt.Sprintf("%s %d of %d: %s", mark, n+1, t.rates.lines, strings.Repeat("x", n%200))
				_, err := unix.Write(fd, []byte("<15>"+last+"\n")) // without its end a line is not finished
				t.Check(err)
			}
		}
		return func() {
				write(int(float64(t.rates.lines) * float64(time.Since(began)) / (0.9 * float64(t.length))))
			}, func() {
				t.Check(unix.Close(fd))
				restore()
				t.note("%d lines were written, %.0f a second", n, float64(n)/time.Since(began).Seconds())
				if n < t.rates.lines {
					t.wrong("only %d of %d lines were written", n, t.rates.lines)
				}
				t.Check(logged(last))
			}
	},
}

// admitLines lets everything into the kernel's log: as it is, ten lines in five
// seconds may come. The file wants the end of the line, too.
func (t *trial) admitLines() (restore func()) {
	const path = "/proc/sys/kernel/printk_devkmsg"
	was, err := os.ReadFile(path)
	t.Check(err)
	restore = t.Later("write", path, string(was))
	t.Check(os.WriteFile(path, []byte("on\n"), 0))
	return restore
}

// logged wants a line to be in the kernel's log.
func logged(line string) error {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return fmt.Errorf("ask for the size of the kernel's log: %w", err)
	}
	text := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, text)
	if err != nil {
		return fmt.Errorf("read the kernel's log: %w", err)
	}
	if !strings.Contains(string(text[:n]), line) {
		return errors.New("the last line is not in the kernel's log")
	}
	return nil
}
