package probes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

func TestParseKmsg(t *testing.T) {
	r, ok := parseKmsg([]byte("3,1234,9876543210,-,caller=T1;EXT4-fs error (device sda1): \\x1b[31m\\xff caf\\xc3\\xa9\n SUBSYSTEM=block\n DEVICE=b8:1\n"))
	want := kmsg{level: 3, sequence: 1234, at: 9876543210 * time.Microsecond, text: "EXT4-fs error (device sda1): \x1b[31m\xff caf\u00e9"}
	if !ok || r != want {
		t.Errorf("%+v %v, want %+v", r, ok, want)
	}
	if r, ok := parseKmsg([]byte("30,5,1,-;hello; \\x4 \\xzz \\")); !ok || r.level != 6 || r.facility != 3 || r.text != `hello; \x4 \xzz \` {
		t.Errorf("%+v %v", r, ok)
	}
	for _, bad := range []string{"", ";", "6;x", "6,1;x", "6,1,2;x", "a,1,2,-;x", "6,1,99999999999999999999,-;x", "6 1 2 -;x"} {
		if r, ok := parseKmsg([]byte(bad)); ok {
			t.Errorf("%q was understood: %+v", bad, r)
		}
	}
}

func FuzzParseKmsg(f *testing.F) {
	f.Add([]byte("6,1,2,-;text\\x20\n KEY=v\n"))
	f.Add([]byte("3,9,9,c;INFO: task a:b:77 blocked for more than 120 seconds."))
	f.Add([]byte("3,9,9,-;Out of memory: Killed process 12 (x) total-vm:1kB"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := parseKmsg(b)
		if !ok {
			return
		}
		if len(r.text) > len(b) || r.level > 7 || r.at < 0 {
			t.Errorf("%+v", r)
		}
		if pid, comm := kernelVictim(r.text); pid < 0 || len(comm) > len(r.text) {
			t.Errorf("%d %q", pid, comm)
		}
		kernelSymptom(r.text)
	})
}

func TestKernelSymptoms(t *testing.T) {
	for line, want := range map[string]struct {
		kind string
		pid  int
		comm string
	}{
		"INFO: task jbd2/sda1:8:77 blocked for more than 120 seconds.":                                {"hung task", 77, "jbd2/sda1:8"},
		"watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:2:143]":                         {"soft lockup", 143, "kworker/1:2"},
		"rcu: INFO: rcu_sched detected stalls on CPUs/tasks:":                                         {"rcu stall", 0, ""},
		"Memory cgroup out of memory: Killed process 4242 (java) total-vm:9kB, anon-rss:1kB, UID:0":   {"oom kill", 4242, "java"},
		"EXT4-fs error (device loop0): ext4_lookup:1784: inode #2: comm ls: deleted inode referenced": {"filesystem error", 0, ""},
		"EXT4-fs (sda1): Remounting filesystem read-only":                                             {"remounted read-only", 0, ""},
		"blk_update_request: I/O error, dev sda, sector 8":                                            {"I/O error", 0, ""},
		"nfs: server fs1 not responding, still trying":                                                {"nfs server not responding", 0, ""},
		"nf_conntrack: nf_conntrack: table full, dropping packet":                                     {"conntrack table full", 0, ""},
		"nf_conntrack: nf_conntrack: table full in netns 4026532177, dropping packet":                 {"conntrack table full", 0, ""},
		"NETDEV WATCHDOG: eth0 (e1000): transmit queue 0 timed out":                                   {"transmit timeout", 0, ""},
		"cgroup: fork rejected by pids controller in /a":                                              {"fork rejected", 0, ""},
		"Out of memory: Killed process -2 (x) total-vm:9kB":                                           {"oom kill", 0, "x"},
		"Out of memory: Killed process 99999999999 (x) total-vm:9kB":                                  {"oom kill", 0, "x"},
		"Oops: 0000 [#1] SMP PTI":                                                                     {"oops", 0, ""},
		"nfs: server fs1 OK":                                                                          {"", 0, ""},
		"EXT4-fs (loop0): mounted filesystem r/w with ordered data mode.":                             {"", 0, ""},
		"usb 1-1: new high-speed USB device":                                                          {"", 0, ""},
	} {
		kind := ""
		if i := kernelSymptom(line); i >= 0 {
			kind = kernelSymptoms[i].kind
		}
		pid, comm := kernelVictim(line)
		if kind != want.kind || pid != want.pid || comm != want.comm {
			t.Errorf("%q: %q %d %q, want %+v", line, kind, pid, comm, want)
		}
	}
}

func TestKernelLogFlood(t *testing.T) {
	var c collected
	k := kernelLines{hub: newHub(Options{Events: c.event}), late: c.add}
	now := freezeframe.Instant(time.Hour)
	for i := range uint64(5000) {
		now = now.Add(time.Millisecond / 2)
		k.take(kmsg{sequence: i * 2, at: time.Duration(now), text: fmt.Sprint("line ", i)}, now)
	}
	k.take(kmsg{sequence: 10000, at: time.Duration(now), text: "Killed process 5 (x) total-vm:1kB"}, now)
	// Anyone may write to /dev/kmsg, but not as the kernel.
	k.take(kmsg{sequence: 10001, facility: 1, at: time.Duration(now), text: "Killed process 6 (y) total-vm:1kB"}, now)
	k.flush(now)
	lines, suppressed, lost := 0, 0, 0
	for _, e := range c.events {
		var s, l int
		if e.Attr("suppressed") == "" {
			lines++
			continue
		}
		fmt.Sscan(e.Attr("suppressed"), &s)
		fmt.Sscan(e.Attr("lost"), &l)
		suppressed, lost = suppressed+s, lost+l
	}
	if lines+suppressed != 5002 || lines > 3*kernelLogRate+1 || lost != 5000 {
		t.Errorf("%d lines, %d left out, %d lost", lines, suppressed, lost)
	}
	if len(c.late) != 1 || c.late[0].Victims[0].PID != 5 {
		t.Errorf("%+v", c.late)
	}
}

func TestKernelLogClock(t *testing.T) {
	var k kernelLines
	now := freezeframe.Instant(time.Hour)
	const behind = 700 * time.Millisecond
	k.when(time.Duration(now)-behind-50*time.Millisecond, now) // read 50 ms late
	k.second = now
	for i := range 100 {
		late := time.Duration(i%7) * time.Millisecond
		now = now.Add(100 * time.Millisecond)
		at := k.when(time.Duration(now)-behind-late, now)
		k.next = 1
		k.second = now
		if off := at.Sub(now.Add(-late)); i > 7 && (off < -time.Millisecond || off > time.Millisecond) {
			t.Fatalf("line %d: off by %v", i, off)
		}
	}
}

func TestKernelLogHere(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root to write to /dev/kmsg")
	}
	out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var c collected
	ended := make(chan error)
	go func() { ended <- (&kernelLog{hub: newHub(Options{Events: c.event})}).Run(ctx, c.add) }()
	text := fmt.Sprintf("freezeframe test %d", os.Getpid())
	var wrote freezeframe.Instant
	found := false
	for i := 0; i < 100 && !found; i++ {
		time.Sleep(50 * time.Millisecond)
		if i%10 == 0 {
			wrote = kernel.Now()
			if _, err := fmt.Fprintf(out, "<14>%s\n", text); err != nil {
				t.Fatal(err)
			}
		}
		c.Lock()
		for _, e := range c.events {
			if e.Text == text {
				found = true
				if e.Kind != freezeframe.EventKernelLog || e.Attr("facility") != "1" || e.Attr("level") != "6" {
					t.Errorf("%+v", e)
				}
				if off := e.At.Sub(wrote); off < -2*time.Second || off > 2*time.Second {
					t.Errorf("%v away from when it was written", off)
				}
			}
		}
		c.Unlock()
	}
	if !found {
		t.Error("the line did not come")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestKernelLogThatIsNotThere(t *testing.T) {
	p := &kernelLog{hub: newHub(Options{}), path: filepath.Join(t.TempDir(), "kmsg")}
	if err := p.Run(t.Context(), nil); err == nil {
		t.Error("no error")
	}
}

func TestAKillOpensAStallOnlyWhereItTookAService(t *testing.T) {
	owners := &serviceOwners{}
	owners.set("0.0.0.0:80", []freezeframe.Victim{{PID: 4242, Comm: "java"}})
	for pid, opens := range map[string]bool{"4242": true, "77": false} {
		var got []freezeframe.Lateness
		k := &kernelLines{hub: newHub(Options{}), owners: owners, late: func(l freezeframe.Lateness) { got = append(got, l) }}
		now := freezeframe.Instant(time.Hour)
		k.take(kmsg{sequence: 1, at: time.Duration(now), text: "Memory cgroup out of memory: Killed process " + pid + " (java) total-vm:1kB"}, now)
		if len(got) != 1 || (got[0].Quality >= 0.5) != opens {
			t.Errorf("pid %s: %+v, want opens %v", pid, got, opens)
		}
	}
}

// A filesystem that failed is told of for as long as somebody tries to write: that
// is one failure, and another filesystem's is another.
func TestAFailureThatGoesOn(t *testing.T) {
	var c collected
	k := kernelLines{hub: newHub(Options{}), late: c.add}
	now := freezeframe.Instant(time.Hour)
	line := func(after time.Duration, text string) {
		now = now.Add(after)
		k.take(kmsg{sequence: k.next, at: time.Duration(now), text: text}, now)
	}
	line(0, "EXT4-fs error (device dm-0): trigger_test_error:126: comm sh: lab")
	line(2*time.Second, "EXT4-fs error (device dm-0): ext4_journal_check_start:83: comm x: Detected aborted journal")
	line(2*time.Second, "EXT4-fs error (device sdb1): ext4_find_entry:1455: inode #2: comm ls: reading directory lblock 0")
	line(2*time.Second, "EXT4-fs error (device dm-0) in __ext4_new_inode:1096: Journal has aborted")
	line(goesOn+time.Second, "EXT4-fs error (device dm-0): ext4_lookup:1785: inode #2: comm ls: deleted inode referenced")
	line(2*time.Second, "I/O error, dev sdb, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2")
	line(2*time.Second, "I/O error, dev sdb, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2")
	began := []time.Duration{0, 0, 4 * time.Second, 0, 7*time.Second + goesOn, 9*time.Second + goesOn, 11*time.Second + goesOn}
	if len(c.late) != len(began) {
		t.Fatalf("%d reports, want %d", len(c.late), len(began))
	}
	for i, l := range c.late {
		if got := time.Duration(l.Began) - time.Hour; got != began[i] {
			t.Errorf("line %d: it goes on since %v, want %v", i, got, began[i])
		}
	}
}
