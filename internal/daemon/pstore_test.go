package daemon

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"freezeframe"
)

const panicTail = `<4>[  812.100000] RIP: 0010:sysrq_handle_crash+0x1a/0x20
<4>[  812.100001] CPU: 1 UID: 0 PID: 812 Comm: kworker/1:1 sh Not tainted 6.18.0 #1
<0>[  812.200000] Kernel panic - not syncing: Fatal exception
`

const oopsHead = `<6>[  811.000000] eth0: link up
<1>[  812.000000][  T812] BUG: kernel NULL pointer dereference, address: 0000000000000000
<4>[  812.050000] Oops: 0002 [#1] SMP
`

func put(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPstoreIsPutTogether(t *testing.T) {
	kernel, moved := t.TempDir(), t.TempDir()
	put(t, kernel, "dmesg-efi-1", []byte("Panic#1 Part1\n"+panicTail))
	put(t, kernel, "dmesg-efi-2", []byte("Panic#1 Part2\n"+oopsHead))
	put(t, kernel, "console-ramoops-0", []byte("not this"))
	put(t, moved, "7461/dmesg-erst-1", []byte("Oops#1 Part1\n"+oopsHead))
	put(t, moved, "7461/dmesg.txt", []byte(oopsHead))
	old := put(t, moved, "old/dmesg-erst-9", []byte("Panic#1 Part1\n"+panicTail))
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(kernel, "dmesg-link")); err != nil {
		t.Fatal(err)
	}
	words, needs := readPstore([]string{kernel, moved, filepath.Join(kernel, "nothing")}, time.Now().Add(-time.Minute))
	if len(needs) != 0 || len(words) != 2 {
		t.Fatalf("%d crashes, needs %v", len(words), needs)
	}
	var w lastWords
	for _, have := range words {
		if have.reason == "Panic#1" {
			w = have
		}
	}
	if len(w.files) != 2 || len(w.lines) != 6 || w.lines[0].text != "eth0: link up" || w.lines[1].at != 812e9 || !strings.HasPrefix(w.lines[1].text, "BUG: kernel") {
		t.Errorf("put together: %+v", w)
	}
	if cause, line := w.death(); cause != "kernel.oops" || !strings.HasPrefix(line, "BUG: kernel NULL") {
		t.Errorf("proves %q by %q", cause, line)
	}
	if c := w.culprit(); c.PID != 812 || c.Comm != "kworker/1:1 sh" {
		t.Errorf("culprit %+v", c)
	}
}

func TestWhatTheLastWordsProve(t *testing.T) {
	for text, want := range map[string]freezeframe.Cause{
		"Kernel panic - not syncing: hung_task: blocked tasks":                          "kernel.hung_task",
		"Kernel panic - not syncing: softlockup: hung tasks":                            "kernel.soft_lockup",
		"watchdog: Watchdog detected hard LOCKUP on cpu 1":                              "kernel.hard_lockup",
		"Kernel panic - not syncing: RCU Stall":                                         "kernel.rcu_stall",
		"Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled": "mem.oom_kill",
		"Kernel panic - not syncing: System is deadlocked on memory":                    "mem.oom_kill",
		"Kernel panic - not syncing: Fatal machine check":                               "hw.machine_check",
		"Kernel panic - not syncing: sysrq triggered crash":                             "kernel.oops",
		"BUG: unable to handle page fault for address: ffffffffdeadbeef":                "kernel.oops",
		"nothing that is known":                                                         "kernel.oops", // a panic all the same
	} {
		w := lastWords{reason: "Panic#1", lines: []logLine{{text: "a line"}, {text: text}}}
		if got, _ := w.death(); got != want {
			t.Errorf("%q proves %q, want %q", text, got, want)
		}
	}
	// An oops is survived: it does not say that the machine stopped there.
	w := lastWords{reason: "Oops#1", lines: []logLine{{text: "BUG: unable to handle page fault"}}}
	if got, _ := w.death(); got != "" {
		t.Errorf("an oops proves %q", got)
	}
}

func TestPackedRecords(t *testing.T) {
	text := []byte("Panic#1 Part1\n" + panicTail)
	for i := range 20_000 { // so that a part of it can be unpacked
		text = fmt.Appendf(text, "[%d.5] line %x\n", i, i*i*i)
	}
	pack := func(w io.WriteCloser, b *bytes.Buffer) []byte {
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var raw, head, z bytes.Buffer
	deflate, err := flate.NewWriter(&raw, 6)
	if err != nil {
		t.Fatal(err)
	}
	zw, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"deflate": pack(deflate, &raw), "zlib": pack(zlib.NewWriter(&head), &head), "zstd": pack(zw, &z)} {
		r, err := parseRecord(b, true)
		if err != nil || r.reason != "Panic#1" || r.part != 1 || !strings.Contains(r.body, "not syncing") {
			t.Errorf("%s: %+v %v", name, r, err)
		}
		// Cut off by the kernel: what is there counts.
		if r, err := parseRecord(b[:len(b)*2/3], true); err != nil || r.reason != "Panic#1" || !strings.Contains(r.body, "line 3e8") {
			t.Errorf("%s, cut off: %d bytes, %v", name, len(r.body), err)
		}
	}
	dir := t.TempDir()
	put(t, dir, "dmesg-efi-1.enc.z", []byte("842 says nothing to us"))
	if words, needs := readPstore([]string{dir}, time.Time{}); len(words) != 0 || len(needs) != 1 || !strings.Contains(needs[0].Err, "neither deflate nor zstd") {
		t.Errorf("what cannot be unpacked: %v %v", words, needs)
	}
	// A small file that unpacks to a large one is read up to the bound.
	var bomb bytes.Buffer
	d, err := flate.NewWriter(&bomb, 9)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(bytes.Repeat([]byte("Panic#1 Part1\n"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := unpack(bomb.Bytes()); err != nil || len(b) != maxPstoreBytes {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestPstoreIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range maxPstoreFiles + 5 {
		put(t, dir, fmt.Sprintf("dmesg-%d", i), []byte("Panic#1 Part1\nx\n"))
	}
	if _, needs := readPstore([]string{dir}, time.Time{}); len(needs) != 1 || !strings.Contains(needs[0].Err, "more than") {
		t.Errorf("needs %v", needs)
	}
}

func TestNoPstore(t *testing.T) {
	dir := t.TempDir()
	if n := noPstore(put(t, dir, "null", []byte("(null)\n"))); n == nil || n.Fix == "" {
		t.Errorf("no backend: %v", n)
	}
	if n := noPstore(put(t, dir, "efi", []byte("efi_pstore\n"))); n != nil {
		t.Errorf("a backend: %v", n)
	}
	if n := noPstore(filepath.Join(dir, "nothing")); n == nil || n.Err != "" {
		t.Errorf("no pstore at all: %v", n)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("Panic#1 Part1\n"+panicTail), false)
	f.Add([]byte("====1700000000.123456-D\nOops#2 Part3\n"+oopsHead), false)
	f.Add([]byte("\x28\xb5\x2f\xfd"), true)
	f.Add([]byte("<999999999>[ 1e400][ T] x\n[[[]"), false)
	f.Fuzz(func(t *testing.T, b []byte, packed bool) {
		r, err := parseRecord(b, packed)
		if err != nil {
			return
		}
		r.path = "/x/dmesg-1"
		for _, w := range assemble([]record{r, r}) {
			w.death()
			w.culprit()
			if len(w.told()) > 8 {
				t.Error("too much is told")
			}
			for _, l := range w.lines {
				if l.text == "" || strings.Contains(l.text, "\n") || l.at < 0 {
					t.Errorf("a line %+v", l)
				}
			}
		}
	})
}
