package rules

import (
	"fmt"
	"syscall"

	"freezeframe"
	"freezeframe/internal/kernel"
)

func appRestarted() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.restarted",
		Title: "a service that was down",
		Means: "The process of the service ended, and until another had taken its place nobody served: clients were refused, or stood in a queue that somebody else keeps for it.",
		Proof: "The kernel told of the end of the process that held the service's socket, and clients were refused or waited from then on, until another process listened or accepted. It is told from a service that ends again and again, and from one that the kernel killed for memory.",
		Remedy: []string{
			"Now: see why it ended: `journalctl -u UNIT -e`, `systemctl status UNIT`, `coredumpctl info`.",
			"So that it does not come back: hand the socket over without a gap (a systemd .socket unit, SO_REUSEPORT, the service's own graceful reload); have the next one ready before the last ends; make it start faster, or have a second one behind a load balancer.",
		},
		Reads:    append([]string{sourceSymptoms}, downReads...),
		Subsumes: wentDown(),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			var out []freezeframe.Finding
			for _, o := range outages(w) {
				if o.loop() != nil {
					continue
				}
				claim := worth(w, o.claim)
				if claim == nil {
					continue
				}
				out = append(out, o.restarted(w, claim))
			}
			return out
		},
	}
}

// wentDown are the causes that a service which is not there brings about: others
// wait for it, its queue fills, and the next one has to start.
func wentDown(more ...freezeframe.Cause) []freezeframe.Cause {
	return append(more, "net.accept_queue_overflow", "app.worker_pool_exhausted", "app.busy_loop", "dep.remote_unresponsive")
}

func (o *outage) restarted(w freezeframe.Window, claim freezeframe.Spans) freezeframe.Finding {
	f := freezeframe.Finding{Explains: claim, Confidence: proven}
	if len(o.ends) == 0 {
		// It closed what it listens on, and went on.
		f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: o.closer.PID, Comm: o.closer.Comm}
		f.Confidence = counted
		f.Summary = fmt.Sprintf("Nobody listened at %s for %s: %s had closed its socket.", o.target, length(o.listen.Length()), named(o.closer.Comm, o.closer.PID))
		f.Evidence = append(o.told(w), evidence("signals", "kind", "that a process of it ended was not seen"))
		return f
	}
	e := &o.ends[o.first]
	f.Culprit = o.culprit(e)
	if len(o.listen) == 0 {
		f.Confidence = seen
	}
	how := e.how()
	if d := e.sender(w); d != nil {
		switch {
		case d.fromKernel || d.from.PID == e.pid:
		case e.signal != 0:
			how += " from " + d.sender()
		default:
			how += ", asked to by " + d.sender() + " with " + kernel.Signal(d.signal)
		}
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "%s sent %s to it %s before it ended", d.sender(), kernel.Signal(d.signal), length(e.at.Sub(d.at))))
	} else if e.signal == syscall.SIGKILL {
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "who sent SIGKILL was not seen"))
	}
	f.Evidence = append([]freezeframe.Evidence{evidence("signals", "code", "%s %s, after it had lived for %s", named(e.comm, e.pid), e.how(), length(e.lived))}, f.Evidence...)
	f.Summary = fmt.Sprintf("%s %s; nobody served %s for %s.", o.subject(e), how, o.target, length(claim.Length()))
	f.Evidence = append(f.Evidence, o.told(w)...)
	if o.opened != 0 {
		f.Evidence = append(f.Evidence, evidence("requests", "done_at", "%s listened again %s after that", named(o.opener.Comm, o.opener.PID), length(o.opened.Sub(e.at))))
	}
	f.Chain = []string{o.target, fmt.Sprintf("%s %s", named(e.comm, e.pid), how)}
	if e.parent.PID > 1 {
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "its parent was %s", named(e.parent.Comm, e.parent.PID)))
	}
	return f
}
