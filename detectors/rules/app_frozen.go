package rules

import (
	"fmt"

	"freezeframe"
)

func appFrozen() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.frozen",
		Title: "a frozen cgroup",
		Means: "The cgroup of the process (its container or unit) was frozen, as `docker pause`, `systemctl freeze` and checkpointing do; nothing in it ran.",
		Proof: "The victims were in the freezer, and their own cgroup, or one above it, says that it is frozen. Who froze it is seen by BPF, on cgroup version 2.",
		Remedy: []string{
			"Now: `docker unpause NAME`, `systemctl thaw UNIT`; by hand `echo 0 > /sys/fs/cgroup/PATH/cgroup.freeze`, on cgroup v1 `echo THAWED > /sys/fs/cgroup/freezer/PATH/freezer.state`.",
			"So that it does not come back: look for who pauses it: backups, checkpoints (CRIU), an orchestrator.",
		},
		Reads:    []string{sourceLedger, "cgroups.frozen", "procs.cgroup", "signals.cgroup", "signals.from_pid"},
		Subsumes: bringsAbout("fs.fuse_unresponsive", "runtime.jvm_gc"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			ms := roots(w, inClass(freezeframe.Frozen))
			if worth(w, ms.spans()) == nil {
				return nil
			}
			s := ms.hull()
			ps := processesIn(w, around(s))
			cs := cgroupsIn(w, s)
			groups := map[int]string{}
			for _, pid := range ms.pids() {
				isFrozen := func(c *control) bool { return c.max("frozen") != 0 }
				if c := cs.of(ps.byPID[pid], "freezer", isFrozen); c != nil {
					groups[pid] = c.path()
				}
			}
			var out []freezeframe.Finding
			for _, b := range split(ms, func(m *moment) string { return groups[m.who.PID] }) {
				claim := worth(w, b.spans())
				if claim == nil {
					continue
				}
				who := b.longest().who
				f := freezeframe.Finding{Explains: claim, Confidence: proven, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: b.key}}
				f.Summary = fmt.Sprintf("The cgroup %s was frozen for %s.", b.key, length(claim.Length()))
				f.Evidence = []freezeframe.Evidence{evidence("cgroups", "frozen", "%s says that it is frozen", b.key)}
				if d := freezer(w, b.key, b.hull().Start); d != nil {
					f.Culprit = ps.blame(d.from)
					f.Culprit.Cgroup = b.key
					f.Summary = fmt.Sprintf("%s froze the cgroup %s, for %s.", d.sender(), b.key, length(claim.Length()))
					f.Evidence = append(f.Evidence, evidence("signals", "cgroup", "%s wrote to the freezer of %s", d.sender(), d.cgroup))
				}
				if b.key == "" {
					// In the freezer, but which cgroup could not be read.
					f.Culprit, f.Confidence = ps.blame(who), seen
					f.Summary = fmt.Sprintf("%s was in the freezer for %s.", named(f.Culprit.Comm, who.PID), length(claim.Length()))
					f.Evidence = []freezeframe.Evidence{evidence("tasks", "wchan", "%s slept in %s", named(f.Culprit.Comm, who.PID), orElse(b.longest().wait.Wchan, "the freezer"))}
				}
				out = append(out, f)
			}
			return out
		},
	}
}

// freezer is the last freezing of a cgroup, or of one above it, before a moment
// at which it was frozen, unless it was thawed between the two.
func freezer(w freezeframe.Window, path string, frozen freezeframe.Instant) *deed {
	span := freezeframe.Span{Start: w.Span().Start, End: frozen.Add(stateSlack)}
	var last *deed
	for _, d := range deeds(w, span, "freeze") {
		if path != "" && under(path, d.cgroup) {
			last = &d
		}
	}
	if last == nil {
		return nil
	}
	for _, d := range deeds(w, span, "thaw") {
		if d.at > last.at && d.at < frozen && d.cgroup == last.cgroup {
			return nil
		}
	}
	return last
}
