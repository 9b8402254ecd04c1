package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var kernelIRQsOff = []lab.Fault{
	{
		Name:      "kernel.irqs_off/hwlat",
		Cause:     "kernel.irqs_off",
		About:     "the kernel's own hwlat tracer looks for hardware that takes the CPU away, with the interrupts of the CPU off for as long, on which a Go service runs",
		MissAbout: "it looks for 5 ms",
		Needs:     needs(root, hwlat),
		Longest:   1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { interruptsOff(s, s.Length) },
		Miss:      func(s *lab.Scene) { interruptsOff(s, 5*time.Millisecond) },
	},
}

// The files of the tracer: the kernel's Documentation/trace/hwlat_detector.rst.
const tracing = "/sys/kernel/tracing/"

func hwlat() error {
	all, err := os.ReadFile(tracing + "available_tracers")
	if err != nil {
		return fmt.Errorf("needs tracefs: %w", err)
	}
	if !slices.Contains(strings.Fields(string(all)), "hwlat") {
		return fmt.Errorf("needs a kernel with the tracer hwlat, this one has: %s", strings.TrimSpace(string(all)))
	}
	return nil
}

func interruptsOff(s *lab.Scene, length time.Duration) {
	us := func(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }
	// It spins once in this run: it does so again after what is left of a window.
	s.Sysctl(tracing+"hwlat_detector/window", us(time.Minute))
	s.Sysctl(tracing+"hwlat_detector/width", us(length))
	s.Sysctl(tracing+"tracing_cpumask", "1")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go}, lab.Place{CPUs: []int{0}})
	s.Blame(lab.Guilty{Host: true})
	s.Watch(svc)
	s.Break(func() {
		off := s.Sysctl(tracing+"current_tracer", "hwlat")
		for _, pid := range named("hwlatd") {
			s.Blame(lab.Guilty{PIDs: []int{pid}})
		}
		time.Sleep(length + 100*time.Millisecond)
		off()
	}, nil)
}

// named returns the processes of a name.
func named(comm string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm") // a fixed pattern
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == comm {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
