package rules

import (
	"fmt"
	"slices"
	"strings"

	"freezeframe"
)

// loggers are the daemons at the other end of /dev/log and the journal's
// sockets.
var loggers = []string{"systemd-journal", "systemd-journald", "rsyslogd", "syslog-ng", "syslogd", "syslogd-helper", "sysklogd"}

func fsLogSocketBlocked() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.log_socket_blocked",
		Title: "a log daemon that does not read",
		Means: "The work sends its log lines over a Unix socket to the log daemon, which did not read them. Its buffer is small; then every log line waits.",
		Proof: "The victims slept sending on a Unix datagram socket (sock_alloc_send_pskb, unix_dgram_sendmsg), and the log daemon is at its other end, or was the only one that can be.",
		Remedy: []string{
			"Now: `systemctl status systemd-journald rsyslog`; restart the one that hangs; see whether /var/log has room.",
			"So that it does not come back: RateLimitBurst= in journald.conf, less logging, a log filesystem of its own; in programs a non-blocking log sink.",
		},
		Reads:    []string{sourceLedger, "procs.comm"},
		Subsumes: []freezeframe.Cause{"kernel.hung_task", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			ms := roots(w, onUnixSend)
			claim := worth(w, ms.spans())
			if claim == nil {
				return nil
			}
			ps := processesIn(w, around(core(claim)))
			isLogger := func(comm string) bool { return slices.Contains(loggers, comm) }
			long := ms.longest()
			f := freezeframe.Finding{Explains: claim, Chain: story(ms)}
			if h := long.wait.Holder; h != nil && h.PID != 0 {
				f.Culprit, f.Confidence = ps.blame(*h), seen
				if !isLogger(orElse(h.Comm, ps.name(h.PID))) {
					if !in(long.wait, "unix_dgram_*") {
						return nil // some other socket
					}
					// Datagrams on a Unix socket are log lines, whatever the daemon
					// is called that takes them.
					f.Confidence = counted
				}
			} else {
				var found []*process
				for _, p := range ps.list {
					if isLogger(p.comm) {
						found = append(found, p)
					}
				}
				switch {
				case len(found) > 0:
					// Where several run, /dev/log is the journal's, which passes on
					// to the others.
					i := slices.IndexFunc(found, func(p *process) bool { return hasPrefix(p.comm, "systemd-journal") })
					f.Culprit, f.Confidence = found[max(i, 0)].culprit(), counted
				case in(long.wait, "unix_dgram_*"):
					f.Culprit, f.Confidence = freezeframe.Culprit{Kind: freezeframe.CulpritHost}, inferred
				default:
					return nil
				}
			}
			f.Evidence = []freezeframe.Evidence{evidence("tasks", "wchan", "%s slept in %s", who(long.who), orElse(long.wait.Wchan, quote(long.wait.Stack)))}
			daemon := "A log daemon that could not be found"
			if f.Culprit.PID != 0 {
				daemon = named(f.Culprit.Comm, f.Culprit.PID)
			}
			f.Summary = fmt.Sprintf("%s did not read its socket; logging waited for %s.", daemon, length(claim.Length()))
			return []freezeframe.Finding{f}
		},
	}
}

// onUnixSend tells whether a wait is that of a sender on a Unix datagram
// socket: no TCP in it.
func onUnixSend(m *moment) bool {
	return m.wait.Class == freezeframe.PeerWait && in(m.wait, "sock_alloc_send_pskb", "unix_wait_for_peer", "unix_dgram_sendmsg", "sock_wait_for_wmem") && !strings.Contains(m.wait.Stack, "tcp_")
}
