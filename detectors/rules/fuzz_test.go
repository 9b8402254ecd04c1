package rules_test

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

var fuzzTexts = []string{
	"", "orders", "/", "/srv/data/x", "socket:[4001]", "pipe:[7]", "0::/a/b;3:blkio:/x;4:memory:/y", "0-1", "9-1,x,3-", "a<-b<-c", frozenStack, journalStack, memcgStack, swapStack, faultStack,
	"rwsem_down_read_slowpath<-down_read<-do_user_addr_fault", "request_wait_answer", "\x00\xff[(:", "10.0.0.1:80", "[::1]:80", "memory:/y", "nf_conntrack", "ENOSPC", "fsfreeze",
}

var fuzzLines = []string{
	"Out of memory: Killed process ", "Out of memory: Killed process 99999999999999999999 (((", "Memory cgroup out of memory: Killed process 5 (a) b) ", "oom-kill:oom_memcg=", "watchdog: BUG: soft lockup - CPU#", "soft lockup - CPU#1 stuck for 99999999999s! [:]",
	"I/O error, dev ", "nfs: server  not responding, still trying", "Oops: ", "CPU: 1 PID:  Comm: ", "task blocked for more than 1 seconds", "rcu: INFO: rcu_sched self-detected stall on CPU", "nf_conntrack: table full", "PM: suspend exit",
}

// FuzzRules builds windows of anything and judges them: no rule may fall over,
// and none may claim what lies outside of the stall.
func FuzzRules(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, "Killed process 1 (x)", int64(-5e9))
	}
	f.Fuzz(func(t *testing.T, seed uint64, line string, step int64) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := windowtest.New(4*s, time.Duration(r.IntN(2000))*ms, time.Duration(2000+r.IntN(2000))*ms)
		text := func() string { return fuzzTexts[r.IntN(len(fuzzTexts))] }
		number := func() uint64 {
			switch r.IntN(4) {
			case 0:
				return r.Uint64()
			case 1:
				return uint64(windowtest.At(time.Duration(r.IntN(4000)) * ms))
			}
			return uint64(r.IntN(600))
		}
		for _, name := range w.Sources() {
			if r.IntN(8) == 0 {
				w.Drop(name)
				continue
			}
			columns := w.Columns(name)
			for range r.IntN(12) {
				row := v{}
				for _, c := range columns {
					if c.Kind == freezeframe.Text {
						row[c.Name] = text()
					} else {
						row[c.Name] = number()
					}
				}
				var key any = freezeframe.Key(number() % 8)
				if r.IntN(2) == 0 {
					key = text()
				}
				w.Row(name, time.Duration(r.IntN(4000))*ms, key, row)
			}
		}
		for range r.IntN(6) {
			w.Kernel(time.Duration(r.IntN(4000))*ms, fuzzLines[r.IntN(len(fuzzLines))]+line)
		}
		w.Event(time.Duration(r.IntN(4000))*ms, freezeframe.EventClockStepped, "", "step_ns", strconv.FormatInt(step, 10))
		w.Event(time.Duration(r.IntN(4000))*ms, "suspended", line)
		classes := []freezeframe.Class{
			freezeframe.OnCPU, freezeframe.Runnable, freezeframe.Throttled, freezeframe.DeviceWait, freezeframe.FilesystemWait, freezeframe.KernelLock, freezeframe.Reclaim, freezeframe.SwapIn, freezeframe.UserLock,
			freezeframe.FileLock, freezeframe.PipeWait, freezeframe.PeerWait, freezeframe.ChildWait, freezeframe.Sleeping, freezeframe.Stopped, freezeframe.Frozen, freezeframe.Idle, freezeframe.MachineGone, freezeframe.Unseen, "new",
		}
		span := func() freezeframe.Span {
			return windowtest.Span(time.Duration(r.IntN(4500)-200)*ms, time.Duration(r.IntN(4500)-200)*ms)
		}
		waits := func() []freezeframe.Wait {
			var out []freezeframe.Wait
			for range r.IntN(5) {
				x := wait{Span: span(), Class: classes[r.IntN(len(classes))], Wchan: text(), Stack: text(), Syscall: text(), File: text()}
				if r.IntN(3) == 0 {
					x.Lock = text()
				}
				if r.IntN(2) == 0 {
					x.Holder = &freezeframe.Party{PID: r.IntN(8), TID: r.IntN(8), Comm: text(), Address: text()}
				}
				out = append(out, x)
			}
			return out
		}
		var ledger freezeframe.Ledger
		for range r.IntN(4) {
			w.Symptom(freezeframe.Symptom{Probe: []string{"answer", "accept", "fsync", "limits", "connect", "clock"}[r.IntN(6)], Target: text(), Err: text(), Own: r.IntN(3) == 0, Victims: []freezeframe.Victim{{PID: r.IntN(8)}}})
		}
		for range r.IntN(5) {
			a := freezeframe.Account{Symptom: r.IntN(6) - 1, Span: span(), Waits: waits(), Weight: float64(r.IntN(3)) / 2, Victim: freezeframe.Victim{PID: r.IntN(8), TID: r.IntN(8), Comm: text()}}
			for range r.IntN(3) {
				a.Chain = append(a.Chain, freezeframe.Link{Party: freezeframe.Party{PID: r.IntN(8)}, Waits: waits()})
			}
			ledger.Accounts = append(ledger.Accounts, a)
		}
		w.SetLedger(ledger)
		for _, rule := range rules.All() {
			for _, found := range rule.Judge(w) {
				within(t, w, found)
				if t.Failed() {
					t.Fatal(rule.Cause)
				}
			}
		}
	})
}
