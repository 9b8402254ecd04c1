package collectors

import (
	"time"

	"freezeframe"
)

// waitsSource is what is told of the waits of threads.
func waitsSource() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "waits", From: "BPF: sched_waking, sched_switch", Key: "task",
		Every: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			{Name: "pid", Kind: gauge}, {Name: "kind", Kind: gauge}, {Name: "began_ns", Kind: gauge}, {Name: "ended_ns", Kind: gauge},
			{Name: "state", Kind: gauge}, {Name: "syscall", Kind: text}, {Name: "file", Kind: text}, {Name: "stack", Kind: text},
			{Name: "other_pid", Kind: gauge}, {Name: "other_tid", Kind: gauge}, {Name: "other_comm", Kind: text},
			{Name: "cpu", Kind: gauge}, {Name: "prio", Kind: gauge},
		},
	}
}
