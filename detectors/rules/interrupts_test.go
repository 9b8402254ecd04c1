package rules_test

import (
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
)

// finding returns what the verdict on a scene says of a cause, nil for nothing.
func finding(cause freezeframe.Cause, scene func(*window)) *freezeframe.Finding {
	for _, f := range detectors.Judge(build(scene), rules.All()).Findings {
		if f.Cause == cause {
			return &f
		}
	}
	return nil
}

// irqLine writes a line of /proc/interrupts.
func irqLine(w *window, label string, cpu int, rate float64) {
	w.Rows("interrupts", s, label, func(at time.Duration) v {
		return v{"count": w.Ran(at, 100, rate), "busiest_cpu": cpu, "busiest_count": w.Ran(at, 100, rate)}
	})
}

func says(f *freezeframe.Finding, source, text string) bool {
	for _, e := range f.Evidence {
		if e.Source == source && strings.Contains(e.Text, text) {
			return true
		}
	}
	return false
}

func TestInterruptStorm(t *testing.T) {
	const cause = "kernel.irq_storm"
	f := finding(cause, func(w *window) {
		runnable(w, "0-1")
		handlers(w, 0, 36, "", 0.7, 90000)
		irqLine(w, "36 virtio1-req.0", 0, 90000)
	})
	switch {
	case f == nil:
		t.Error("told by BPF: nothing")
	case f.Confidence < 0.9 || f.Culprit.Kind != freezeframe.CulpritDevice || f.Culprit.Device != "virtio1-req.0" ||
		!says(f, "interrupt_time", "the handler of interrupt 36 (virtio1-req.0) ran on CPU 0 for") || !says(f, "interrupt_time", "90000 times a second, at most for 3 ms at a time") || !says(f, "interrupts", "interrupt 36"):
		t.Errorf("told by BPF: %+v", *f)
	}
	f = finding(cause, func(w *window) {
		runnable(w, "0-1")
		handlers(w, 0, 36, "", 0.7, 90000)
		irqLine(w, "36 virtio2-input.0", 0, 90000)
		w.Rows("netdev", 250*ms, "ens3", func(at time.Duration) v { return v{"rx_packets": w.Ran(at, 100, 200000)} })
	})
	if f == nil || f.Culprit.Interface != "ens3" {
		t.Errorf("a queue, and an interface with its packets: %+v", f)
	}
	f = finding(cause, func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 20, use{irq: 0.8, user: 0.2}, use{user: 0.2})
		irqLine(w, "20 acpi", 0, 60000)
		irqLine(w, "24 timer", 1, 80000) // of another CPU
	})
	if f == nil || f.Culprit.Device != "acpi" || f.Confidence > 0.9 || !says(f, "stat", "interrupts on CPU 0") {
		t.Errorf("without BPF: %+v", f)
	}
	f = finding(cause, func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 20, use{irq: 0.8, user: 0.2}, use{user: 0.2})
		irqLine(w, "CAL Function call interrupts", 0, 60000)
	})
	if f == nil || f.Culprit.Kind != freezeframe.CulpritHost || !says(f, "interrupts", "Function call") {
		t.Errorf("a CPU's own interrupts: %+v", f)
	}
	f = finding(cause, func(w *window) {
		w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
		spinning(w, service, service, "orders", 1, v{"cpu": 0})
		handlers(w, 0, 36, "", 0.7, 90000)
	})
	if f == nil || f.Culprit.Device != "interrupt 36" {
		t.Errorf("the victim had the CPU as far as the kernel counts, and no line is known: %+v", f)
	}

	for what, scene := range map[string]func(*window){
		"the victim is on another CPU": func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Runnable})
			thread(w, service, service, "orders", func(at time.Duration) v { return v{"run_ns": w.Ran(at, 0, 1e8), "cpu": 1} })
			handlers(w, 0, 36, "", 0.7, 90000)
		},
		"the work that they leave behind takes more": func(w *window) {
			runnable(w, "0-1")
			handlers(w, 0, 36, "", 0.36, 90000)
			handlers(w, 0, 3, "net_rx", 0.5, 90000)
		},
		"the victim sleeps": func(w *window) {
			asleep(w, frozen("/srv/data/x"))
			handlers(w, 0, 36, "", 0.7, 90000)
		},
		"many, but the kernel measured no time": func(w *window) {
			runnable(w, "0-1")
			stat(w, 20, 20, use{user: 1}, use{user: 1})
			irqLine(w, "20 acpi", 0, 60000)
		},
		"on a CPU that they left half of": func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
			spinning(w, service, service, "orders", 1, v{"cpu": 0})
			handlers(w, 0, 36, "", 0.4, 90000)
		},
	} {
		if f := finding(cause, scene); f != nil {
			t.Errorf("%s: %+v", what, *f)
		}
	}
}

func TestSoftirqTimeIsExact(t *testing.T) {
	const cause = "kernel.softirq_storm"
	f := finding(cause, func(w *window) { // ksoftirqd: /proc/stat calls it system time
		runnable(w, "0-1")
		stat(w, 20, 20, use{system: 0.9, user: 0.1}, use{user: 0.2})
		handlers(w, 0, 3, "net_rx", 0.6, 3000)
		handlers(w, 0, 1, "timer", 0.1, 100)
		w.Rows("softirqs", 50*ms, 0, func(at time.Duration) v { return v{"timer": w.Ran(at, 10, 20000)} })
		w.Rows("netdev", 250*ms, "veth0", func(at time.Duration) v { return v{"rx_packets": w.Ran(at, 100, 400000)} })
	})
	if f == nil || f.Confidence < 0.9 || f.Culprit.Interface != "veth0" || !says(f, "interrupt_time", "softirq net_rx ran on CPU 0 for 1.1 s of 1.8 s, 3000 times a second, at most for 3 ms") {
		t.Errorf("told by BPF: %+v", f)
	}
	f = finding(cause, func(w *window) { // ticks that came while a softirq ran
		runnable(w, "0-1")
		stat(w, 20, 20, use{softirq: 0.8, user: 0.2}, use{user: 0.2})
		handlers(w, 0, 3, "net_rx", 0.05, 3000)
	})
	if f != nil {
		t.Errorf("the handlers took 5 %%: %+v", *f)
	}
	f = finding(cause, func(w *window) { // attached for the last moment only
		runnable(w, "0-1")
		stat(w, 20, 20, use{softirq: 0.8, user: 0.2}, use{user: 0.2})
		w.Row("interrupt_time", stallTo-100*ms, 1<<31|3, v{"softirq": "net_rx", "number": 3, "ns": 100, "count": 1})
		w.Row("interrupt_time", stallTo-50*ms, 1<<31|3, v{"softirq": "net_rx", "number": 3, "ns": 200, "count": 2})
	})
	if f == nil {
		t.Error("a twentieth of the span seen by BPF overrules /proc/stat")
	}
	if f = finding(cause, func(w *window) { // off in between: what was counted then is of no known time
		runnable(w, "0-1")
		for at := stallFrom; at < stallTo; at += 50 * ms {
			if at > stallFrom+500*ms && at < stallFrom+s {
				continue
			}
			n := uint64(1000)
			if at >= stallFrom+s {
				n = 2e9
			}
			w.Row("interrupt_time", at, 1<<31|3, v{"softirq": "net_rx", "number": 3, "ns": n, "count": n})
		}
		w.Empty("interrupt_time", stallFrom+700*ms)
	}); f != nil {
		t.Errorf("time between two attachments counts: %+v", *f)
	}
}

func TestOneLongHandlerIsNamed(t *testing.T) {
	f := finding("kernel.irqs_off", func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 20, use{user: 0.3}, use{system: 1})
		deaf(w, 1, 0, "", "", stallFrom, stallTo)
		w.Row("interrupt_time", stallFrom-100*ms, 1<<32|36, v{"cpu": 1, "number": 36, "ns": 0, "count": 1})
		w.Row("interrupt_time", stallTo+50*ms, 1<<32|36, v{"cpu": 1, "number": 36, "ns": 1_900_000_000, "count": 2, "longest_ns": 1_900_000_000, "longest_began": uint64(stallFrom + 1000*s)})
		irqLine(w, "36 ahci[0000:00:1f.2]", 1, 1)
	})
	if f == nil || !says(f, "interrupt_time", "the handler of interrupt 36 (ahci[0000:00:1f.2]) ran for 1.9 s") {
		t.Errorf("%+v", f)
	}
}
