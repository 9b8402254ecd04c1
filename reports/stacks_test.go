package reports

import (
	"slices"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules/windowtest"
	"freezeframe/internal/stacks"
)

func TestStacksOfAStall(t *testing.T) {
	const ms = time.Millisecond
	w := windowtest.New(6*time.Second, 2*time.Second, 4*time.Second)
	w.Suffers(7, "orders", freezeframe.Wait{Class: freezeframe.UserLock})
	sample := func(at time.Duration, tid int, kernel, user string) {
		w.Row("profile", at/(50*ms)*50*ms+50*ms, windowtest.Task(tid), windowtest.V{"pid": tid, "comm": "hog", "at_ns": windowtest.At(at), "kernel_stack": kernel, "user_stack": user})
	}
	sample(1900*ms, 9, "", "early")
	sample(2500*ms, 9, "copy_page<-clear_huge_page", "main.run<-main.main")
	sample(2510*ms, 9, "copy_page<-clear_huge_page", "main.run<-main.main")
	sample(2520*ms, 9, "", "")
	wait := func(tid int, state rune, from, to time.Duration, stack string) {
		w.Row("waits", to/(50*ms)*50*ms+50*ms, windowtest.Task(tid), windowtest.V{"pid": tid, "comm": "x", "kind": 1, "state": state, "began_ns": windowtest.At(from), "ended_ns": windowtest.At(to), "stack": stack})
	}
	wait(7, 'S', 1500*ms, 3000*ms, "futex_wait<-do_futex") // a victim's: only what lies in the stall
	wait(8, 'S', 2100*ms, 3000*ms, "ep_poll")              // an idle bystander's
	wait(6, 'D', 2100*ms, 2300*ms, "folio_wait_bit")
	got := Stacks(w)
	find := func(state stacks.State, frames ...string) *stacks.Stack {
		for i := range got {
			if got[i].State == state && slices.Equal(got[i].Frames, frames) {
				return &got[i]
			}
		}
		t.Errorf("no stack %v of %s in %+v", frames, state, got)
		return &stacks.Stack{}
	}
	if s := find(stacks.OnCPU, "copy_page", "clear_huge_page", "main.run", "main.main"); s.Count != 2 || s.Kernel != 2 || s.Nanoseconds != 2*sampleTime {
		t.Errorf("on CPU: %+v", s)
	}
	find(stacks.OnCPU, "[unknown]")
	if s := find(stacks.OffCPU, "futex_wait", "do_futex"); s.Nanoseconds != uint64(time.Second) {
		t.Errorf("the victim's wait: %+v, want 1 s", s)
	}
	find(stacks.OffCPU, "folio_wait_bit")
	if len(got) != 4 {
		t.Errorf("%d stacks, want 4: %+v", len(got), got)
	}
	if none := Stacks(windowtest.New(6*time.Second, 2*time.Second, 4*time.Second)); len(none) != 0 {
		t.Errorf("without BPF: %+v", none)
	}
}
