package daemon

import (
	"fmt"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"freezeframe"
	"freezeframe/recorder"
)

// notifier tells the service manager how things stand (sd_notify(3)). Its
// socket takes no more when the manager hangs: nobody here waits for it.
type notifier struct {
	states chan string
	done   chan struct{}
	log    zerolog.Logger
	status string // the last one sent; of the goroutine that calls setStatus
}

const (
	notifyQueue = 64
	notifyFlush = 500 * time.Millisecond
)

func newNotifier(log zerolog.Logger) *notifier {
	n := &notifier{states: make(chan string, notifyQueue), done: make(chan struct{}), log: log}
	go n.run()
	return n
}

func (n *notifier) run() {
	defer close(n.done)
	failed := false
	for state := range n.states {
		if state == "" {
			return
		}
		_, err := systemd.SdNotify(false, state)
		if err != nil && !failed {
			n.log.Warn().Err(err).Msg("the service manager cannot be told how things stand")
		}
		failed = err != nil
	}
}

// send queues lines such as READY=1 for the manager. What does not fit is left
// out: WATCHDOG=1 comes again, and a manager so far behind reads nothing.
func (n *notifier) send(lines ...string) {
	select {
	case n.states <- strings.Join(lines, "\n"):
	default:
	}
}

// reloading begins a reload, which the next READY=1 ends.
func (n *notifier) reloading() { n.send(systemd.SdNotifyReloading, systemd.SdNotifyMonotonicUsec()) }

func (n *notifier) ready() { n.send(systemd.SdNotifyReady) }

func (n *notifier) stopping() { n.send(systemd.SdNotifyStopping) }

func (n *notifier) watchdog() { n.send(systemd.SdNotifyWatchdog) }

// maxStatus bounds the line for systemctl status: systemd takes no message of
// more than 4 KiB, and none of a part of it (NOTIFY_BUFFER_MAX).
const maxStatus = 2048

// statusLine is one line for systemctl status.
func statusLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "…"
	}
	return "STATUS=" + text
}

// setStatus tells the line, when it is another than before.
func (n *notifier) setStatus(text string) {
	if text != n.status {
		n.status = text
		n.send(statusLine(text))
	}
}

// close sends what is queued, as far as that is quick.
func (n *notifier) close() {
	late := time.After(notifyFlush)
	select {
	case n.states <- "":
	case <-late:
		return
	}
	select {
	case <-n.done:
	case <-late:
	}
}

// wedged says why the sampling path does not get on, "" while it does: each lane
// has come round within the limit. Whoever asks knows nothing that the lanes did
// not say themselves. The slow lane may be held up in a source for as long as a
// server of files is gone: another process would be held up there too, and would
// have lost the recording.
func wedged(lanes [freezeframe.Lanes]recorder.Pulse, limit time.Duration) string {
	for i := range lanes {
		p := &lanes[i]
		if p.Late <= limit || hangs(p) {
			continue
		}
		where := "between two readings"
		if p.Reading != "" {
			where = "in " + p.Reading
		}
		return fmt.Sprintf("the %s lane has not come round for %s, %s", p.Lane, p.Late.Round(100*time.Millisecond), where)
	}
	return ""
}

// hangs tells whether a lane is held up where it may be.
func hangs(p *recorder.Pulse) bool { return p.Lane == freezeframe.Slow && p.Reading != "" }

// sampled tells whether each lane has read all of its sources once, the slow one
// as far as it got when it hangs.
func sampled(lanes [freezeframe.Lanes]recorder.Pulse) bool {
	for i := range lanes {
		if p := &lanes[i]; !p.Sampled && !(hangs(p) && p.Late > slowFirst) {
			return false
		}
	}
	return true
}

// slowFirst is how long the first reading of a slow source may take before the
// daemon is ready without it.
const slowFirst = 5 * time.Second
