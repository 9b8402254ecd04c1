package detectors

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules/windowtest"
)

// A stop lasts from its signal on, not from the reading that finds it, for all
// threads but one that no signal ends the wait of.
func TestStopsFromTheirSignals(t *testing.T) {
	const sigstop, sigcont, sigtstp = 19, 18, 20
	for name, x := range map[string]struct {
		stack string
		state rune
		sent  []int // at 2.2 s, and at 2.9 s
		want  time.Duration
	}{
		"in a futex":                   {"futex_wait_queue<-futex_wait", 'S', []int{sigstop, sigcont}, 700 * ms},
		"and is ended":                 {"futex_wait_queue<-futex_wait", 'S', []int{sigstop, 9}, 700 * ms},
		"in the journal":               {"jbd2_log_wait_commit<-ext4_sync_file", 'D', []int{sigstop, sigcont}, 0},
		"a signal that may be caught":  {"futex_wait_queue<-futex_wait", 'S', []int{sigtstp, sigcont}, 0},
		"a SIGCONT that nobody needed": {"futex_wait_queue<-futex_wait", 'S', []int{sigcont, sigcont}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := stalled()
			sampled(w, 7, func(time.Duration) windowtest.V {
				return windowtest.V{"state": x.state, "wchan": "somewhere", "stack": x.stack, "syscall": 202, "timeslices": 5}
			})
			for i, at := range []time.Duration{2200 * ms, 2900 * ms} {
				w.Row("signals", at+20*ms, freezeframe.Key(i), windowtest.V{"at_ns": windowtest.At(at), "kind": "signal", "signal": x.sent[i], "pid": 7, "from_pid": 1})
			}
			l := Account(w)
			whole(t, l)
			exactly(t, "stopped", classes(&l.Accounts[0])[freezeframe.Stopped], x.want)
		})
	}
}
