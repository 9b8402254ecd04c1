package collectors

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// javaProgram compiles the test program once for a test.
func javaProgram(t *testing.T) (dir string) {
	t.Helper()
	javac, err := exec.LookPath("javac")
	if err != nil {
		t.Skip("no javac to build a real Java program with")
	}
	dir = t.TempDir()
	if out, err := exec.Command(javac, "-d", dir, "testdata/java/Pauses.java").CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return dir
}

type java struct {
	*exec.Cmd
	in  io.Writer
	out *bufio.Reader
	log string
}

func startJava(t *testing.T, dir string, megabytes int, options ...string) *java {
	t.Helper()
	log := filepath.Join(t.TempDir(), "gc.log")
	args := append(options, "-Xlog:gc*=debug,safepoint=debug:file="+log+":uptimenanos", "-cp", dir, "Pauses", strconv.Itoa(megabytes))
	j := &java{Cmd: exec.Command("java", args...), log: log}
	in, err := j.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := j.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	j.in, j.out = in, bufio.NewReader(out)
	if err := j.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Process.Kill(); j.Wait() })
	j.expect(t, "ready")
	return j
}

func (j *java) expect(t *testing.T, want string) {
	t.Helper()
	if line, err := j.out.ReadString('\n'); strings.TrimSpace(line) != want {
		t.Fatalf("java said %q, %v; want %q", line, err, want)
	}
}

// jvmLog is what the JVM's own log says: when each full System.gc() pause began
// and ended on its clock, and how many others there were and how long they took.
func jvmLog(t *testing.T, path string) (began, ended []uint64, others int, othersUS uint64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pause := regexp.MustCompile(`^\[(\d+)ns\].*GC\(\d+\) Pause Full \(System\.gc\(\)\)(.*)$`)
	young := regexp.MustCompile(`GC\(\d+\) Pause Young \(System\.gc\(\)\) .* ([\d.]+)ms$`)
	for _, line := range strings.Split(string(b), "\n") {
		if m := young.FindStringSubmatch(line); m != nil {
			others++
			ms, _ := strconv.ParseFloat(m[1], 64)
			othersUS += uint64(ms * 1000)
		}
		m := pause.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		at, _ := strconv.ParseUint(m[1], 10, 64)
		if strings.HasSuffix(m[2], "ms") {
			ended = append(ended, at)
		} else {
			began = append(began, at)
		}
	}
	return began, ended, others, othersUS
}

// A real JVM's pauses, read live, are those of its own log.
func TestJVMPauses(t *testing.T) {
	dir := javaProgram(t)
	for _, c := range []struct{ option, collector string }{
		{"-XX:+UseSerialGC", "Serial full"},
		{"-XX:+UseParallelGC", "Parallel full"},
		{"-XX:+UseG1GC", "G1 full"},
	} {
		t.Run(c.option, func(t *testing.T) {
			j := startJava(t, dir, 150, c.option, "-Xmx600m")
			h := live()
			census := newCensus()
			sweeper, reader := &procs{census: census}, &jvm{census: census}
			for _, c := range []freezeframe.Collector{sweeper, reader} {
				if err := c.Open(h); err != nil {
					t.Fatal(err)
				}
				defer closed(t, c)
			}
			source := reader.Source()
			var table, rest freezeframe.Table
			row := func() map[string]uint64 {
				if collect(t, reader, &table) != nil {
					t.Fatal("collect")
				}
				for i, k := range table.Keys {
					if k.TID() == j.Process.Pid {
						m := map[string]uint64{}
						for n, v := range table.Values(i, len(source.Columns)) {
							m[source.Columns[n].Name] = v
						}
						return m
					}
				}
				return nil
			}
			var first map[string]uint64
			for i := 0; first == nil; i++ {
				if i == 200 {
					t.Fatal("the JVM was not found")
				}
				collect(t, sweeper, &rest)
				time.Sleep(20 * time.Millisecond)
				first = row()
			}
			for range 40 { // its clock is narrowed down
				row()
				time.Sleep(13 * time.Millisecond)
			}
			first = row()
			const rounds = 3
			seen, stopped := 0, 0
			var entries, exits []uint64
			for range rounds {
				io.WriteString(j.in, "x")
				done := make(chan struct{})
				go func() { defer close(done); j.expect(t, "collected") }()
				was := false
			collecting:
				for {
					r := row()
					if r["in_gc"] == 1 && !was {
						seen++
						was = true
					}
					if r["in_safepoint"] == 1 {
						stopped++
					}
					select {
					case <-done:
						break collecting
					case <-time.After(5 * time.Millisecond):
					}
				}
				last := row()
				entries, exits = append(entries, last["gc_entry_at"]), append(exits, last["gc_exit_at"])
			}
			last := row()
			words := h.Texts.(dictionary)
			began, ended, others, pauses := jvmLog(t, j.log)
			if len(began) != rounds || len(ended) != rounds {
				t.Fatalf("the log has %d pauses that begin and %d that end, want %d", len(began), len(ended), rounds)
			}
			for i := range began {
				pause := (ended[i] - began[i]) / 1000
				pauses += pause
				got := (exits[i] - entries[i]) / 1000
				t.Logf("pause %d µs by the log, %d µs by the counters", pause, got)
				if got < pause*9/10-2000 || got > pause*11/10+2000 {
					t.Errorf("a pause of %d µs in the log is %d µs by entry and exit", pause, got)
				}
			}
			if got := last["gc_count"] - first["gc_count"]; got != uint64(rounds+others) {
				t.Errorf("%d collections, want %d", got, rounds+others)
			}
			if got := last["gc_us"] - first["gc_us"]; got < pauses*9/10-2000 || got > pauses*11/10+2000 {
				t.Errorf("gc_us %d, the log says %d", got, pauses)
			}
			got := last["safepoint_us"] + last["safepoint_sync_us"] - first["safepoint_us"] - first["safepoint_sync_us"]
			if got < pauses*9/10 || got > pauses*13/10+5000 {
				t.Errorf("safepoints took %d µs, the pauses alone %d", got, pauses)
			}
			// The distance between pauses holds whatever the clocks' offset is;
			// the offset is the one of the log's own first pause.
			for i := 1; i < rounds; i++ {
				mine, its := int64(entries[i]-entries[0]), int64(began[i]-began[0])
				if d := mine - its; d > 60e6 || d < -60e6 {
					t.Errorf("pause %d is %d ns after the first, the log says %d", i, mine, its)
				}
			}
			if exits[rounds-1] > uint64(kernel.Now())+60e6 {
				t.Error("a pause that ended lies in the future")
			}
			if seen == 0 || stopped == 0 {
				t.Errorf("seen in a collection %d times, in a safepoint %d times: never while it lasted", seen, stopped)
			}
			if cause := words[last["cause"]]; cause != "System.gc()" {
				t.Errorf("cause %q", cause)
			}
			if name := words[last["collector"]]; !strings.Contains(name, c.collector) {
				t.Errorf("collector %q, want one of %q", name, c.collector)
			}
			if last["stop_the_world"] != 1 {
				t.Error("stop_the_world 0")
			}
			if max := last["heap_max_bytes"]; max < 500<<20 || max > 640<<20 {
				t.Errorf("heap_max_bytes %d with -Xmx600m", max)
			}
			if used := last["heap_used_bytes"]; used < 100<<20 || used > last["heap_max_bytes"] {
				t.Errorf("heap_used_bytes %d", used)
			}
			if n := testing.AllocsPerRun(100, func() { table.Reset(); reader.Collect(&table) }); n != 0 {
				t.Errorf("%v allocations a reading", n)
			}
		})
	}
}

// Shenandoah's counters are not taken for pauses.
func TestJVMConcurrentCollectors(t *testing.T) {
	for name, want := range map[string]bool{
		"Shenandoah": true, "ZGC major collection pauses": true, "Z": true, "CMS": true,
		"G1 full collection pauses": false, "PSScavenge": false, "MSC": false, "Copy": false,
	} {
		if concurrent([]byte(name)) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

// The clock of a JVM is bracketed by the readings between which its tick
// counter changed.
func TestJVMClock(t *testing.T) {
	var v vm
	const began = 1_000_000_000_000
	for i := range freezeframe.Instant(200) { // read every 50 ms and a bit, written every 50
		now := began + i*50_300_000
		written := (now - began) / 50_000_000 * 50_000_000
		if i > 0 {
			v.clock(uint64(written), 1e9, now, now+1000)
		}
	}
	if got := int64(v.moment(5, 1e9)) - began - 5; got > 1e6 || got < -1e6 {
		t.Errorf("off by %d ns", got)
	}
	if v.moment(0, 1e9) != 0 {
		t.Error("a time that never was is a moment")
	}
}

func hsperfFixture(t testing.TB, counters ...any) []byte {
	t.Helper()
	b := make([]byte, hsperfHeader, 4096)
	copy(b, []byte{0xca, 0xfe, 0xc0, 0xc0, 1, 2, 0, 1})
	put := func(at, v int) {
		b[at], b[at+1], b[at+2], b[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
	put(24, hsperfHeader)
	put(28, len(counters)/2)
	for i := 0; i < len(counters); i += 2 {
		at := len(b)
		name := counters[i].(string)
		data := (hsperfEntry + len(name) + 1 + 7) / 8 * 8
		var value []byte
		vector, kind := 0, byte('J')
		switch v := counters[i+1].(type) {
		case string:
			value, vector, kind = append([]byte(v), 0), len(v)+1, 'B'
		case int:
			for s := range 8 {
				value = append(value, byte(v>>(8*s)))
			}
		}
		b = append(b, make([]byte, data)...)
		b = append(b, value...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		put(at, len(b)-at)
		put(at+4, hsperfEntry)
		put(at+8, vector)
		b[at+12] = kind
		put(at+16, data)
		copy(b[at+hsperfEntry:], name)
	}
	return b
}

func TestParseHsperf(t *testing.T) {
	b := hsperfFixture(t, "sun.rt.safepoints", 7, "sun.rt.safepointTime", 9, "sun.gc.cause", "No GC",
		"sun.gc.collector.1.name", "MSC", "sun.gc.collector.1.invocations", 3, "sun.gc.collector.99.time", 4,
		"sun.gc.generation.0.space.2.used", 11, "sun.gc.generation.1.maxCapacity", 12, "java.cls.loaded", 5)
	var h hsperf
	if !parseHsperf(b, &h) {
		t.Fatal("not taken for a counter file")
	}
	if got := hsperfValue(b, h.safepoints); got != 7 {
		t.Errorf("safepoints %d", got)
	}
	if got := hsperfValue(b, h.gcs[1].invocations); got != 3 {
		t.Errorf("invocations %d", got)
	}
	if got := string(hsperfText(b, h.cause)); got != "No GC" {
		t.Errorf("cause %q", got)
	}
	if h.spaces != 1 || hsperfValue(b, h.used[0]) != 11 || hsperfValue(b, h.maxCapacity[1]) != 12 || hsperfValue(b, h.ticks) != 0 {
		t.Errorf("%+v", h)
	}
	if h.size >= len(b) {
		t.Errorf("reads %d of %d bytes although the last counter is not wanted", h.size, len(b))
	}
	for n := range b {
		parseHsperf(b[:n], &h) // cut anywhere
	}
	for _, at := range []int{0, 5, 7} {
		broken := bytes.Clone(b)
		broken[at] = 0
		if parseHsperf(broken, &h) {
			t.Errorf("byte %d of the header broken, and accepted", at)
		}
	}
}

func FuzzHsperf(f *testing.F) {
	f.Add(hsperfFixture(f, "sun.rt.safepoints", 7, "sun.gc.collector.0.name", "Copy", "sun.gc.collector.0.invocations", 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hsperf
		if !parseHsperf(b, &h) {
			return
		}
		if h.size > len(b) {
			t.Fatalf("wants %d of %d bytes", h.size, len(b))
		}
		hsperfText(b, h.cause)
		hsperfText(b[:len(b)/2], h.lastCause)
		for _, gc := range h.gcs {
			hsperfText(b, gc.name)
			hsperfValue(b[:len(b)/2], gc.time)
		}
	})
}
