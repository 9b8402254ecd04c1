package rules

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

func appCrashLoop() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.crash_loop",
		Title: "a service that ends again and again",
		Means: "The process of the service ends soon after its start, each time that it is started anew: it comes up for moments or not at all, and its clients are refused or wait in vain.",
		Proof: "The kernel told of the ends of one program after the other, of the same parent or the same unit, each briefly after its birth, while clients of its service were refused or waited. Told from brief children of a service that works: others like it go on serving.",
		Remedy: []string{
			"Now: see what it says before it ends: `journalctl -u UNIT -e`, the supervisor's log; a new configuration, a missing file or a taken port are the usual reasons. `systemctl stop UNIT` ends the loop.",
			"So that it does not come back: check configurations before a restart (`nginx -t`, ExecStartPre=); RestartSec= and StartLimitBurst= so that a loop is slow and ends.",
		},
		Reads:    append([]string{sourceSymptoms}, downReads...),
		Subsumes: wentDown("app.restarted"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			var out []freezeframe.Finding
			for _, o := range outages(w) {
				run := o.loop()
				if run == nil {
					continue
				}
				claim := worth(w, o.claim)
				if claim == nil {
					continue
				}
				out = append(out, o.looping(w, run, claim))
			}
			return out
		},
	}
}

func (o *outage) looping(w freezeframe.Window, run []end, claim freezeframe.Spans) freezeframe.Finding {
	last := &run[len(run)-1]
	f := freezeframe.Finding{Explains: claim, Confidence: proven, Culprit: o.culprit(last)}
	f.Culprit.Count = len(run)
	took := last.at.Sub(run[0].at)
	hows := map[string]int{}
	var lived, most time.Duration
	how := last.how()
	for i := range run {
		h := run[i].how()
		if hows[h]++; hows[h] > hows[how] {
			how = h
		}
		if i > 0 { // the first may have served for a year
			lived += run[i].lived
			most = max(most, run[i].lived)
		}
	}
	who := o.unit
	if who == "" {
		who = last.comm
		if last.parent.PID > 1 {
			who += ", which " + named(last.parent.Comm, last.parent.PID) + " starts,"
		}
	}
	f.Summary = fmt.Sprintf("%s ended %d times in %s, mostly so: it %s; nobody served %s for %s.", who, len(run), length(took), how, o.target, length(claim.Length()))
	f.Evidence = []freezeframe.Evidence{
		evidence("signals", "code", "%d of %d times it %s", hows[how], len(run), how),
		evidence("signals", "lived_ns", "after its start it lived for %s on average, %s at most", length(lived/time.Duration(len(run)-1)), length(most)),
		evidence("signals", "at_ns", "it ended every %s on average", length(took/time.Duration(len(run)-1))),
	}
	if d := last.sender(w); d != nil && !d.fromKernel && d.from.PID != last.pid {
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "the last time %s sent it %s", d.sender(), kernel.Signal(d.signal)))
	}
	if o.unit != "" {
		f.Evidence = append(f.Evidence, evidence("signals", "cgroup", "all of them were processes of %s", o.unit))
	}
	f.Evidence = append(f.Evidence, o.told(w)...)
	f.Chain = []string{o.target, fmt.Sprintf("%s ended %d times: it %s", last.comm, len(run), how)}
	return f
}
