package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"freezeframe"
)

// clockSetters are the programs that set the clock.
var clockSetters = []string{"chronyd", "ntpd", "systemd-timesyn", "ntpdate", "sntp", "date", "timedatectl", "systemd-timedat", "hwclock", "ptp4l", "phc2sys", "VBoxService", "vmtoolsd", "qemu-ga"}

// justThen is how far from a jump forward a wait may begin that it brings about.
const justThen = 100 * time.Millisecond

func timeStepped() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "time.stepped",
		Title: "a jump of the wall clock",
		Means: "The wall clock was set while the machine ran. Timers and timeouts that go by it fire at once or much too late; who waits until a time of day waits as long as the clock went back.",
		Proof: "CLOCK_REALTIME moved against CLOCK_MONOTONIC. Waiting is put down to it only where it began before or at a step back and lasted no longer than that step, or began at the very moment of a step forward of a second or more.",
		Remedy: []string{
			"Now: `timedatectl status`, `chronyc tracking`; restart what still waits.",
			"So that it does not come back: let chrony slew instead of step (`makestep 1.0 3`), no ntpdate in cron; programs should wait by CLOCK_MONOTONIC.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, freezeframe.EventClockStepped, "procs.comm"},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "app.lock_contention", "net.accept_queue_overflow", "dep.remote_unresponsive"},
		Judge:    judgeTimeStepped,
	}
}

func judgeTimeStepped(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	var step time.Duration
	var at freezeframe.Instant
	for _, e := range w.Events(freezeframe.EventClockStepped, freezeframe.Whole) {
		ns, err := strconv.ParseInt(e.Attr("step_ns"), 10, 64)
		if err != nil || ns == math.MinInt64 || e.At > stall.End || e.At < stall.Start.Add(-time.Minute) {
			continue
		}
		if d := time.Duration(ns); d.Abs() > step.Abs() {
			step, at = d, e.At
		}
	}
	if step == 0 {
		return nil
	}
	// The clock probe's own symptom is the jump itself.
	claim := symptoms(w, func(sy *freezeframe.Symptom) bool { return sy.Probe == "clock" })
	sure := proven
	if step < 0 {
		// Sleepers that go by the wall clock sleep on for the step's length.
		held := freezeframe.Span{Start: at.Add(-100 * time.Millisecond), End: at.Add(-step).Add(500 * time.Millisecond)}
		ms := roots(w, func(m *moment) bool {
			return inClass(freezeframe.Sleeping, freezeframe.UserLock, freezeframe.Idle)(m) && m.wait.Holder == nil
		})
		if late := ms.spans().Within(held); late.Length() > 0 {
			claim, sure = freezeframe.Union(append(claim, late...)...), seen
		}
	}
	if step >= time.Second {
		// What was good until a time of day is not any more: who had it sleeps, or
		// waits for who does, from that moment on.
		ms := roots(w, func(m *moment) bool {
			return inClass(freezeframe.Sleeping, freezeframe.UserLock)(m) && m.wait.Holder == nil &&
				m.Start >= at.Add(-justThen) && m.Start <= at.Add(justThen)
		})
		if late := ms.spans(); late.Length() > 0 {
			claim, sure = freezeframe.Union(append(claim, late...)...), counted // by the moment alone
		}
	}
	if claim = worth(w, claim); claim == nil {
		return nil
	}
	c := freezeframe.Culprit{Kind: freezeframe.CulpritHost}
	if p := setter(processesIn(w, around(freezeframe.Span{Start: at, End: at})), at); p != nil {
		c = p.culprit()
	}
	way := "forward"
	if step < 0 {
		way = "back"
	}
	return []freezeframe.Finding{{
		Culprit: c, Explains: claim, Confidence: sure,
		Summary:  fmt.Sprintf("The wall clock jumped %s by %s.", way, length(step.Abs())),
		Evidence: []freezeframe.Evidence{evidence(freezeframe.EventClockStepped, "", "CLOCK_REALTIME moved by %v against CLOCK_MONOTONIC", step)},
	}}
}

// setter is the program for setting the clock that was just started; a daemon
// that was there all the time is not proof enough.
func setter(ps *processes, at freezeframe.Instant) *process {
	for _, p := range ps.list {
		if slices.Contains(clockSetters, p.comm) && p.first > at.Add(-time.Second) && p.first <= at.Add(sweep) {
			return p
		}
	}
	return nil
}
