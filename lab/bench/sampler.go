package main

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/net"
)

//go:embed floor.c
var floorSource []byte

// The budgets of the sampling path, as ratios of CPU time.
const (
	budgetFloor  = 2.5
	budgetProcfs = 0.3
)

const (
	nameFloor    = "C, reads only"
	nameSampler  = "freezeframe, fast lane"
	nameProcfs   = "prometheus/procfs"
	nameGopsutil = "gopsutil/v3 (reads less)"
)

// sampler lets the sampler's fast lane, a C loop that reads the same files and
// two libraries take turns as daemons.
func sampler(o options) (bool, error) {
	rates := "while nothing is wrong"
	if o.stalled {
		rates = "while stalled"
	}
	fmt.Printf("\nthe fast lane as a daemon, at its rates %s: %s each in %d turns\n", rates, o.each, o.rounds)
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	type entrant struct {
		name, program string
		args          []string
	}
	entrants := []entrant{
		{nameSampler, self, []string{"-role", "sampler"}},
		{nameProcfs, self, []string{"-role", "procfs"}},
		{nameGopsutil, self, []string{"-role", "gopsutil"}},
	}
	files, err := filesOf(fastLane(), o.stalled)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "freezeframe-bench")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	if floor, err := buildFloor(dir); err != nil {
		fmt.Printf("SKIPPED, the C loop: %v\n", err)
	} else {
		args := []string{fmt.Sprint(Tick.Milliseconds())}
		for path, period := range files {
			args = append(args, fmt.Sprintf("%d:%s", max(1, period/Tick), path))
		}
		slices.Sort(args[1:])
		entrants = append(entrants, entrant{nameFloor, floor, args})
	}
	if o.stalled {
		for i := range entrants {
			if entrants[i].program == self {
				entrants[i].args = append(entrants[i].args, "-stalled")
			}
		}
	}

	used := map[string]*sample{}
	for range o.rounds {
		for _, e := range entrants {
			c, err := startReady(e.name, e.program, e.args...)
			if err != nil {
				return false, err
			}
			time.Sleep(500 * time.Millisecond) // its start does not count
			s, err := watch(o.each/time.Duration(o.rounds), c)
			c.end()
			if err != nil {
				return false, err
			}
			if used[e.name] == nil {
				used[e.name] = new(sample)
			}
			used[e.name].add(s[0])
		}
	}

	ours := used[nameSampler]
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%% of a CPU\tµs a tick\tswitches a tick\tours is × this\t\n")
	for _, e := range entrants {
		s := used[e.name]
		ticks := s.wall.Seconds() / Tick.Seconds()
		fmt.Fprintf(w, "%s\t%.3f\t%.0f\t%.1f\t%.2f\t\n", e.name, s.percent(), s.cpu.Seconds()*1e6/ticks, float64(s.switches)/ticks, ours.percent()/s.percent())
	}
	if err := w.Flush(); err != nil {
		return false, err
	}
	ok := true
	for _, s := range used {
		if ok && busy(*s) {
			ok = false
		}
	}
	if floor := used[nameFloor]; floor != nil {
		text, within := verdict(ours.percent()/floor.percent(), budgetFloor)
		fmt.Printf("CPU beside the C loop over the same %d files: %s\n", len(files), text)
		ok = ok && within
	}
	text, within := verdict(ours.percent()/used[nameProcfs].percent(), budgetProcfs)
	fmt.Printf("CPU beside prometheus/procfs: %s\n", text)
	return ok && within, nil
}

// buildFloor compiles the C loop.
func buildFloor(dir string) (string, error) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", fmt.Errorf("%w (apt-get install gcc)", err)
	}
	source, program := filepath.Join(dir, "floor.c"), filepath.Join(dir, "floor")
	if err := os.WriteFile(source, floorSource, 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command(gcc, "-O2", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile floor.c: %w: %s", err, out)
	}
	return program, nil
}

// contestant runs one of the daemons, until it is killed.
func contestant(role string, stalled bool) error {
	runtime.UnlockOSThread() // only the bench itself has children that die with it
	if os.Getppid() == 1 {
		return errors.New("the bench has ended")
	}
	switch role {
	case "sampler":
		return runSampler(stalled)
	case "pingpong":
		return runPingPong()
	case "procfs":
		reads, err := procfsReads(stalled)
		if err != nil {
			return err
		}
		return run(reads)
	case "gopsutil":
		return run(gopsutilReads(stalled))
	}
	return fmt.Errorf("no role %q", role)
}

// runSampler is the recorder's own sampler with the collectors of the fast
// lane and its ring, set up as a watch does it: with real-time priority, and
// the runtime's monitor told to sleep longer. Where that is refused it runs
// without, as a watch does.
func runSampler(stalled bool) error {
	realtime := kernel.SetRealtime(detectors.RealtimePriority)
	_, relaxed := kernel.RelaxMonitor()
	if err := errors.Join(realtime, relaxed, kernel.MlockAll()); err != nil {
		fmt.Fprintf(os.Stderr, "bench: the sampler does without: %v\n", err)
	}
	ring := recorder.NewRing(64 << 20)
	focus := new(freezeframe.Focus)
	if stalled {
		focus.Suspect(math.MaxInt64)
	}
	host := freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: ring.Texts().Lane(freezeframe.Fast), Focus: focus}
	s := recorder.NewSampler(ring, host, fastLane())
	if err := s.Start(); err != nil {
		return err
	}
	fmt.Println("ready")
	select {} // until it is killed
}

// read is one thing that a library does, and how often.
type read struct {
	every time.Duration
	do    func() error
}

// run does what is due at each tick, as a program with a time.Ticker would.
func run(reads []read) error {
	fmt.Println("ready")
	ticker := time.NewTicker(Tick)
	for tick := 0; ; tick++ {
		<-ticker.C
		for i, r := range reads {
			if (tick+i)%max(1, int(r.every/Tick)) != 0 {
				continue
			}
			if err := r.do(); err != nil {
				return err
			}
		}
	}
}

// rate returns the period of the collector of that name.
func rate(name string, stalled bool) time.Duration {
	for _, c := range fastLane() {
		if s := c.Source(); s.Name == name {
			if stalled && s.Stalled > 0 {
				return s.Stalled
			}
			return s.Every
		}
	}
	panic("no collector " + name)
}

func ignore[T any](_ T, err error) error { return err }

// procfsReads reads with prometheus/procfs what the fast lane reads. It has no
// parser for vmstat, and looks for interrupts below a process: these two are
// split into words by hand.
func procfsReads(stalled bool) ([]read, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	block, err := blockdevice.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	self, err := proc.Self()
	if err != nil {
		return nil, err
	}
	here := func(path string) bool { _, err := os.Stat(path); return err == nil }
	add := func(reads []read, name string, do ...func() error) []read {
		for _, d := range do {
			reads = append(reads, read{rate(name, stalled), d})
		}
		return reads
	}
	var reads []read
	reads = add(reads, "stat", func() error { return ignore(proc.Stat()) })
	for _, r := range []string{"cpu", "memory", "io", "irq"} {
		if here("/proc/pressure/" + r) {
			reads = add(reads, "pressure", func() error { return ignore(proc.PSIStatsForResource(r)) })
		}
	}
	reads = add(reads, "vmstat", func() error { return byHand("/proc/vmstat") })
	reads = add(reads, "meminfo", func() error { return ignore(proc.Meminfo()) })
	reads = add(reads, "diskstats", func() error { return ignore(block.ProcDiskstats()) })
	reads = add(reads, "interrupts", func() error { return byHand("/proc/interrupts") })
	reads = add(reads, "softirqs", func() error { return ignore(proc.Softirqs()) })
	reads = add(reads, "softnet", func() error { return ignore(proc.NetSoftnetStat()) })
	reads = add(reads, "netstat", func() error { return ignore(self.Snmp()) }, func() error { return ignore(self.Netstat()) })
	reads = add(reads, "sockstat", func() error { return ignore(proc.NetSockstat()) })
	if here("/proc/net/sockstat6") {
		reads = add(reads, "sockstat", func() error { return ignore(proc.NetSockstat6()) })
	}
	reads = add(reads, "netdev", func() error { return ignore(proc.NetDev()) })
	reads = add(reads, "limits", func() error { return ignore(proc.LoadAvg()) }, func() error { return ignore(proc.NetStat()) },
		func() error { return ignore(proc.SysctlInts("fs/file-nr")) }, func() error { return ignore(proc.SysctlInts("kernel/threads-max")) },
		func() error { return ignore(proc.SysctlInts("kernel/pid_max")) }, func() error { return ignore(proc.SysctlInts("net/ipv4/ip_local_port_range")) })
	if here("/proc/sys/net/netfilter/nf_conntrack_count") {
		reads = add(reads, "limits", func() error { return ignore(proc.SysctlInts("net/netfilter/nf_conntrack_count")) },
			func() error { return ignore(proc.SysctlInts("net/netfilter/nf_conntrack_max")) })
	}
	reads = add(reads, "self", func() error { return ignore(self.Stat()) })
	return reads, nil
}

// byHand reads a file as a plain Go program would.
func byHand(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 {
			values[f[0]] = f[1]
		}
	}
	return nil
}

// gopsutilReads reads with gopsutil what it knows of that. It has no pressure,
// vmstat, interrupts, softnet or socket counts.
func gopsutilReads(stalled bool) []read {
	at := func(name string) time.Duration { return rate(name, stalled) }
	return []read{
		{at("stat"), func() error { return ignore(load.Misc()) }},
		{at("stat"), func() error { return ignore(cpu.Times(true)) }},
		{at("meminfo"), func() error { return ignore(mem.VirtualMemory()) }},
		{at("meminfo"), func() error { return ignore(mem.SwapMemory()) }},
		{at("diskstats"), func() error { return ignore(disk.IOCounters()) }},
		{at("netstat"), func() error { return ignore(net.ProtoCounters(nil)) }},
		{at("netdev"), func() error { return ignore(net.IOCounters(true)) }},
		{at("limits"), func() error { return ignore(load.Avg()) }},
	}
}
