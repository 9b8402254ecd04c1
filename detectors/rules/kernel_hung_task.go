package rules

import (
	"fmt"
	"strings"

	"freezeframe"
)

const (
	// hungFloor is how long an uninterruptible wait must last to be called
	// hung without the kernel saying so.
	hungFloor = 1e9
	// hungBefore: the kernel's word comes two minutes into a wait, and only
	// every two minutes.
	hungBefore = 5e9
)

func kernelHungTask() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.hung_task",
		Title: "a thread stuck in the kernel",
		Means: "A thread waited in the kernel without a way out (state D: it cannot even be killed), and nothing that freezeframe knows explains what for.",
		Proof: "One uninterruptible wait of more than a second that fits no better cause, or the kernel's own line \"task … blocked for more than … seconds\".",
		Remedy: []string{
			"Now: `cat /proc/PID/stack`, and `echo w > /proc/sysrq-trigger` for all such threads (then `dmesg`).",
			"So that it does not come back: the innermost functions of the stack name the driver or filesystem to look at.",
		},
		Reads: []string{sourceLedger, sourceSymptoms, "tasks.state", "tasks.stack", freezeframe.EventKernelLog},
		Judge: judgeHungTask,
	}
}

// onlyTold is the finding when the kernel names a task that was not sampled:
// "INFO: task jbd2/vda1-8:212 blocked for more than 122 seconds."
func onlyTold(line *logLine, claim freezeframe.Spans) freezeframe.Finding {
	f := freezeframe.Finding{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}, Explains: claim, Confidence: counted,
		Summary:  "The kernel reports a thread that is stuck in it.",
		Evidence: []freezeframe.Evidence{evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text))},
	}
	rest, _ := after(line.Text, "task ")
	name, _, _ := strings.Cut(rest, " blocked for more than")
	if i := strings.LastIndexByte(name, ':'); i > 0 && leadingInt(name[i+1:]) > 0 {
		f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: leadingInt(name[i+1:]), Comm: name[:i]}
		f.Summary = "The kernel reports that " + named(f.Culprit.Comm, f.Culprit.PID) + " is stuck in it."
	}
	return f
}

func judgeHungTask(w freezeframe.Window) []freezeframe.Finding {
	stuck := map[int]bool{}
	for _, t := range threadsIn(w, w.Stall().Span) {
		if t.stuck > 0 {
			stuck[t.tid] = true
		}
	}
	waits := func(m *moment) bool {
		return inClass(freezeframe.Unseen, freezeframe.KernelLock, freezeframe.FilesystemWait, freezeframe.DeviceWait)(m) && (m.wait.Wchan != "" || m.wait.Stack != "") && stuck[m.who.TID]
	}
	var line *logLine
	for _, l := range kernelLog(w, hungBefore) {
		if strings.Contains(l.Text, "blocked for more than") && strings.Contains(l.Text, "task ") {
			line = &l
			break
		}
	}
	// With the kernel's word every such wait counts, else only long ones.
	ms := roots(w, func(m *moment) bool { return waits(m) && (line != nil || m.Length() >= hungFloor) })
	told := symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "hung task") })
	claim := worth(w, freezeframe.Union(append(told, ms.spans()...)...))
	if claim == nil {
		return nil
	}
	long := ms.longest()
	if long == nil {
		if line == nil {
			return nil
		}
		return []freezeframe.Finding{onlyTold(line, claim)}
	}
	c := freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: long.who.PID, Comm: long.who.Comm}
	if h := long.wait.Holder; h != nil && h.PID != 0 {
		c.PID, c.Comm = h.PID, h.Comm
	}
	f := freezeframe.Finding{
		Culprit: c, Explains: claim, Confidence: inferred, Chain: story(ms),
		Summary: fmt.Sprintf("%s was stuck in the kernel for %s, at %s.", who(long.who), length(long.Length()), orElse(long.wait.Wchan, word(long.wait.Stack, "<"))),
	}
	if long.wait.Stack != "" {
		f.Evidence = append(f.Evidence, evidence("tasks", "stack", "%s", quote(long.wait.Stack)))
	}
	if line != nil {
		f.Confidence = counted
		f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text)))
	}
	return []freezeframe.Finding{f}
}
