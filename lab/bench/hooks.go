package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"freezeframe/bpf"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

//go:generate go tool -modfile=../../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types yardsticks yardsticks.bpf.c

const (
	// switches is how many there are in one measurement of a variant, and
	// hookRounds in how many turns.
	switches   = 200_000
	hookRounds = 15
	// hooksBudget is in times of empty hooks, hackbenchBudget the share by which
	// hackbench may slow down.
	hooksBudget     = 1.2
	hackbenchBudget = 0.02
)

// hookVariant is one thing that may hang on the scheduler.
type hookVariant struct {
	name   string
	attach func() (detach func(), err error)
}

func hookVariants() []hookVariant {
	none := func() (func(), error) { return func() {}, nil }
	yardstick := func(names ...string) func() (func(), error) {
		return func() (func(), error) {
			var objs yardsticksObjects
			if err := loadYardsticksObjects(&objs, nil); err != nil {
				return nil, err
			}
			byName := map[string]*ebpf.Program{
				"empty_waking": objs.EmptyWaking, "empty_switch": objs.EmptySwitch, "hash_waking": objs.HashWaking, "hash_switch": objs.HashSwitch,
			}
			var links []link.Link
			detach := func() {
				for _, l := range links {
					l.Close()
				}
				objs.Close()
			}
			for _, n := range names {
				l, err := link.AttachTracing(link.TracingOptions{Program: byName[n]})
				if err != nil {
					detach()
					return nil, err
				}
				links = append(links, l)
			}
			return detach, nil
		}
	}
	ours := func() (func(), error) {
		without := slices.DeleteFunc(bpf.Names(), func(n string) bool { return n == "waits" })
		p := bpf.Load(bpf.Options{Without: without})
		if p.Waits == nil {
			p.Close()
			return nil, fmt.Errorf("waits was not loaded: %v", p.Needs())
		}
		return p.Close, nil
	}
	return []hookVariant{
		{"nothing attached", none},
		{"empty hooks", yardstick("empty_waking", "empty_switch")},
		{"freezeframe's waits", ours},
		{"a hash map of stamps", yardstick("hash_waking", "hash_switch")},
	}
}

// hooks measures what a context switch costs with each variant, and hackbench.
func hooks(o options) (bool, error) {
	fmt.Println("\nHooks of the scheduler, ns added to a context switch (two threads on one CPU hand each other a byte)")
	variants := hookVariants()
	ns := make([][]float64, len(variants))
	for range hookRounds {
		for i, v := range variants {
			detach, err := v.attach()
			if err != nil {
				return false, fmt.Errorf("attach %s: %w", v.name, err)
			}
			time.Sleep(30 * time.Millisecond)
			took, err := pingPong(switches)
			detach()
			if err != nil {
				return false, err
			}
			ns[i] = append(ns[i], float64(took.Nanoseconds())/switches)
		}
	}
	// Of each round by itself: the machine is not the same from round to round.
	added := func(i int) float64 {
		var d []float64
		for r := range ns[i] {
			d = append(d, ns[i][r]-ns[0][r])
		}
		return median(d)
	}
	empty := added(1)
	for i, v := range variants {
		if i == 0 {
			fmt.Printf("  %-24s %7.0f ns a switch\n", v.name, median(ns[0]))
			continue
		}
		fmt.Printf("  %-24s %+7.0f ns, %.2f x empty hooks\n", v.name, added(i), added(i)/empty)
	}
	text, ok := verdict(added(2)/empty, hooksBudget)
	fmt.Printf("  ours over empty hooks: %s; over the hash map: %.2f\n", text, added(2)/added(3))
	within, err := hackbench(variants)
	return ok && within, err
}

// pingPong hands a byte to and fro between two threads of one CPU, in a process
// of its own, and returns how long n switches took.
func pingPong(n int) (time.Duration, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-role", "pingpong")
	// A thread in a raw call cannot be stopped: no garbage collection there.
	cmd.Env = append(os.Environ(), "GOGC=off", "PINGPONG="+strconv.Itoa(n))
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("hand a byte to and fro: %w", err)
	}
	return time.ParseDuration(strings.TrimSpace(string(out)))
}

// runPingPong is the process that does so.
func runPingPong() error {
	n, err := strconv.Atoi(os.Getenv("PINGPONG"))
	if err != nil {
		return err
	}
	var to, from [2]int
	if err := errors.Join(unix.Pipe2(to[:], unix.O_CLOEXEC), unix.Pipe2(from[:], unix.O_CLOEXEC)); err != nil {
		return err
	}
	pin := func() error {
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(runtime.NumCPU() - 1)
		return unix.SchedSetaffinity(0, &set)
	}
	pass := func(nr uintptr, fd int, b *byte) bool {
		// Raw: the Go scheduler must not put another thread in between.
		r, _, _ := unix.RawSyscall(nr, uintptr(fd), uintptr(unsafe.Pointer(b)), 1)
		return int(r) == 1
	}
	failed := make(chan error, 1)
	go func() {
		err := pin()
		failed <- err
		var b byte
		for err == nil && pass(unix.SYS_READ, to[0], &b) && pass(unix.SYS_WRITE, from[1], &b) {
		}
	}()
	if err := errors.Join(<-failed, pin()); err != nil {
		return fmt.Errorf("pin a thread: %w", err)
	}
	var b byte
	begun := time.Now()
	for range n / 2 {
		if !pass(unix.SYS_WRITE, to[1], &b) || !pass(unix.SYS_READ, from[0], &b) {
			return errors.New("the byte was lost")
		}
	}
	fmt.Println(time.Since(begun))
	return nil
}

// hackbench measures the usual benchmark of the scheduler (perf bench sched
// messaging) with nothing attached and with ours, in turns.
func hackbench(variants []hookVariant) (bool, error) {
	if _, err := exec.LookPath("perf"); err != nil {
		fmt.Println("  hackbench: not measured, perf is not installed (apt-get install linux-perf)")
		return true, nil
	}
	const rounds = 9
	var base, with []float64
	for range rounds {
		for _, v := range []hookVariant{variants[0], variants[2]} {
			detach, err := v.attach()
			if err != nil {
				return false, err
			}
			s, err := messaging()
			detach()
			if err != nil {
				return false, err
			}
			if v.name == variants[0].name {
				base = append(base, s)
			} else {
				with = append(with, s)
			}
		}
	}
	// The shortest of each: what others do on the machine only adds.
	slow := slices.Min(with)/slices.Min(base) - 1
	text := "within"
	if slow > hackbenchBudget {
		text = "OVER"
	}
	fmt.Printf("  hackbench: %.3f s of CPU without, %.3f s with ours (shortest of %d): %+.1f %%, %s %.0f %%; medians %+.1f %%\n",
		slices.Min(base), slices.Min(with), rounds, 100*slow, text, 100*hackbenchBudget, 100*(median(with)/median(base)-1))
	return slow <= hackbenchBudget, nil
}

// messaging returns the CPU seconds of one run.
func messaging() (float64, error) {
	cmd := exec.Command("perf", "bench", "sched", "messaging", "-g", "2", "-l", "1500")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("perf bench sched messaging: %w: %s", err, strings.TrimSpace(string(out)))
	}
	st := cmd.ProcessState
	return st.UserTime().Seconds() + st.SystemTime().Seconds(), nil
}

func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}
