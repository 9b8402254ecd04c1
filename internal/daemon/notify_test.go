package daemon

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"freezeframe"
	"freezeframe/recorder"
)

// lanes are three that go round, changed as a test wants.
func lanes(change func(*[freezeframe.Lanes]recorder.Pulse)) [freezeframe.Lanes]recorder.Pulse {
	var out [freezeframe.Lanes]recorder.Pulse
	for i := range out {
		out[i] = recorder.Pulse{Lane: freezeframe.Lane(i), Ticked: 1e9, Late: -40 * time.Millisecond, Sampled: true}
	}
	if change != nil {
		change(&out)
	}
	return out
}

func TestWedged(t *testing.T) {
	type all = [freezeframe.Lanes]recorder.Pulse
	const limit = 10 * time.Second
	for name, x := range map[string]struct {
		change func(*all)
		want   string // "": it goes on
	}{
		"all go round":      {},
		"late, but not yet": {change: func(l *all) { l[freezeframe.Fast].Late = limit }},
		"the fast lane":     {func(l *all) { l[freezeframe.Fast].Late = limit + 1 }, "the fast lane has not come round for 10s, between two readings"},
		"the tasks lane in a source": {func(l *all) {
			l[freezeframe.Tasks].Late, l[freezeframe.Tasks].Reading = time.Minute, "procs"
		}, "the tasks lane has not come round for 1m0s, in procs"},
		"the slow lane between two sources": {func(l *all) { l[freezeframe.Slow].Late = time.Minute }, "the slow lane"},
		"the slow lane in a mount":          {change: func(l *all) { l[freezeframe.Slow].Late, l[freezeframe.Slow].Reading = time.Hour, "mounts" }},
	} {
		if got := wedged(lanes(x.change), limit); got == "" != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

func TestSampled(t *testing.T) {
	type all = [freezeframe.Lanes]recorder.Pulse
	for name, x := range map[string]struct {
		change func(*all)
		want   bool
	}{
		"all":                    {nil, true},
		"the tasks lane not yet": {func(l *all) { l[freezeframe.Tasks].Sampled = false }, false},
		"the slow lane not yet":  {func(l *all) { l[freezeframe.Slow].Sampled = false }, false},
		"the slow lane hangs": {func(l *all) {
			l[freezeframe.Slow] = recorder.Pulse{Lane: freezeframe.Slow, Late: time.Minute, Reading: "mounts"}
		}, true},
		"the tasks lane may never": {func(l *all) {
			l[freezeframe.Tasks] = recorder.Pulse{Lane: freezeframe.Tasks, Late: time.Minute, Reading: "procs"}
		}, false},
	} {
		if got := sampled(lanes(x.change)); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A service manager that reads nothing holds up nobody here.
func TestNobodyWaitsForTheServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n := newNotifier(zerolog.Nop())
	for range 10_000 {
		n.watchdog()
	}
	n.setStatus("a\nb")
	n.close()
	buf := make([]byte, 256)
	size, err := l.Read(buf)
	if err != nil || string(buf[:size]) != "WATCHDOG=1" {
		t.Errorf("told %q, %v", buf[:size], err)
	}
}

func TestStatusIsOneLine(t *testing.T) {
	if got := statusLine("a \n READY=0\tb"); got != "STATUS=a READY=0 b" {
		t.Errorf("%q", got)
	}
}

func TestStatusIsShortEnough(t *testing.T) {
	// Cut in the middle of a letter of two bytes.
	got := statusLine("x" + strings.Repeat("é", 4096))
	if len(got) > 4096 || !utf8.ValidString(got) || !strings.HasPrefix(got, "STATUS=xé") || !strings.HasSuffix(got, "é…") {
		t.Errorf("%d bytes, %.20q", len(got), got)
	}
}
