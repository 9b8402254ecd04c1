package rules

import (
	"fmt"
	"slices"
	"strings"

	"freezeframe"
)

func limitProcessFDs() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.process_fds",
		Title: "a process out of file descriptors",
		Means: "The process had as many files and connections open as its limit allows, so it could neither accept a connection nor open a file.",
		Proof: "The number of its open descriptors stood at its limit (RLIMIT_NOFILE) while its connections were not accepted, or a call failed with EMFILE.",
		Remedy: []string{
			"Now: `prlimit --pid PID --nofile=65536` raises the limit of the running process.",
			"So that it does not come back: LimitNOFILE= in the unit; look for a leak (`ls -l /proc/PID/fd | awk '{print $NF}' | sort | uniq -c | sort -n`); idle timeouts for connections.",
		},
		Reads:    []string{sourceSymptoms, "procs.fds", "procs.fds_max", "procs.ppid", "failures.failures", "failures.errno"},
		Subsumes: []freezeframe.Cause{"app.busy_loop", "app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive", "net.packet_loss", "net.syn_flood"},
		Judge:    judgeProcessFDs,
	}
}

func judgeProcessFDs(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	s := around(stall.Span)
	ps := processesIn(w, s)
	list := outOfDescriptors(w, s)
	var out []freezeframe.Finding
	for _, p := range ps.list {
		if ps.byPID[p.pid] != p || p.fdsMax == 0 || p.fds+1 < p.fdsMax {
			continue
		}
		claim := worth(w, symptoms(w, func(sy *freezeframe.Symptom) bool {
			if !suffers(sy, p.pid) {
				return false
			}
			return sy.Err == "" || refusal(sy, "EMFILE")
		}).And(atDescriptorLimit(w, p)))
		if claim == nil {
			continue
		}
		// One below the limit, it lets one go and opens it again.
		sure, many := 0.9, "as many as it may"
		if p.fds < p.fdsMax {
			sure, many = counted, "one less than it may"
		}
		var mine []refused
		for _, r := range list {
			if r.pid == p.pid {
				mine = append(mine, r)
			}
		}
		if len(mine) > 0 {
			sure = proven
		}
		out = append(out, freezeframe.Finding{
			Culprit: p.culprit(), Explains: claim, Confidence: sure,
			Summary:  fmt.Sprintf("%s had %d descriptors open, %s.", p, p.fds, many),
			Evidence: append([]freezeframe.Evidence{evidence("procs", "fds", "%d descriptors open, limit %d", p.fds, p.fdsMax)}, refusals(mine)...),
			Remedy:   []string{fmt.Sprintf("`prlimit --pid %d --nofile=%d`", p.pid, 4*p.fdsMax)},
		})
	}
	if len(out) > 0 {
		return out
	}
	// The refusals themselves, where the count could not be read in time.
	for i := range list {
		mine := list[i : i+1]
		if slices.ContainsFunc(list[:i], func(r refused) bool { return r.pid == mine[0].pid }) {
			continue
		}
		if claim := worth(w, lateOf(w, ps, mine)); claim != nil {
			out = append(out, freezeframe.Finding{
				Culprit: ps.blame(freezeframe.Party{PID: mine[0].pid, Comm: mine[0].comm}), Explains: claim, Confidence: seen,
				Summary: fmt.Sprintf("%s had as many descriptors open as it may.", &mine[0]), Evidence: refusals(mine),
			})
		}
	}
	if len(out) > 0 {
		return out
	}
	for i := range stall.Symptoms {
		sy := &stall.Symptoms[i]
		if !refusal(sy, "EMFILE") {
			continue
		}
		c := freezeframe.Culprit{Kind: freezeframe.CulpritHost}
		if len(sy.Victims) > 0 && sy.Victims[0].PID != 0 {
			c = freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: sy.Victims[0].PID, Comm: sy.Victims[0].Comm}
		}
		if claim := worth(w, symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "EMFILE") })); claim != nil {
			return []freezeframe.Finding{{
				Culprit: c, Explains: claim, Confidence: seen, Summary: "A process had as many descriptors open as it may.",
				Evidence: []freezeframe.Evidence{evidence(freezeframe.EventRefused, "", "%s %s failed with %s", sy.Probe, sy.Target, sy.Err)},
			}}
		}
	}
	return nil
}

// outOfDescriptors returns who was refused a descriptor; EMFILE of inotify is a
// limit of another kind.
func outOfDescriptors(w freezeframe.Window, s freezeframe.Span) []refused {
	return slices.DeleteFunc(refusedIn(w, s, "EMFILE"), func(r refused) bool { return strings.HasPrefix(r.call, "inotify_init") })
}

// atDescriptorLimit returns when a process was within one of its limit.
func atDescriptorLimit(w freezeframe.Window, p *process) freezeframe.Spans {
	series := w.Between("procs", around(w.Stall().Span))
	var at []freezeframe.Span
	var since freezeframe.Instant
	open := false
	fds, limit := series.Points(p.key, "fds"), series.Points(p.key, "fds_max")
	for i := range fds {
		full := i < len(limit) && limit[i].Value > 0 && fds[i].Value+1 >= limit[i].Value
		// Between two readings, of which one has it at its limit, it was there:
		// descriptors fill and drain faster than they are counted.
		if full && !open {
			open, since = true, fds[max(i-1, 0)].At
		}
		if open && !full {
			at = append(at, freezeframe.Span{Start: since, End: fds[i].At})
			open = false
		}
	}
	if open {
		at = append(at, freezeframe.Span{Start: since, End: w.Stall().End})
	}
	return freezeframe.Union(at...)
}
