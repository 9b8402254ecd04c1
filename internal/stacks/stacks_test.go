package stacks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/pprof/profile"
)

const hostile = "evil;\x1b[31m\n\u202e</script>\xff"

func some() []Stack {
	return []Stack{
		{PID: 1, TID: 1, Comm: "redis", Frames: []string{"vfs_fsync_range", "do_syscall_64", "fsync", "aof", "main"}, Kernel: 2, State: OffCPU, Count: 1, Nanoseconds: 900},
		{PID: 1, TID: 2, Comm: "redis", Frames: []string{"vfs_fsync_range", "do_syscall_64", "fsync", "aof", "main"}, Kernel: 2, State: OffCPU, Count: 2, Nanoseconds: 100},
		{PID: 2, TID: 2, Comm: "redis", Frames: []string{"vfs_fsync_range", "do_syscall_64", "fsync", "aof", "main"}, Kernel: 2, State: OffCPU, Count: 4, Nanoseconds: 50},
		{PID: 1, TID: 1, Comm: "redis", Frames: []string{"aof", "main"}, State: OnCPU, Count: 7, Nanoseconds: 70},
		{PID: 1, TID: 1, Comm: "redis", Frames: []string{"main"}, State: OnCPU, Count: 3, Nanoseconds: 30},
		{PID: 3, TID: 3, Comm: hostile, Frames: []string{hostile, "main"}, State: OnCPU, Count: 1, Nanoseconds: 10},
		{PID: 4, TID: 4, Comm: "kworker/0:1", Frames: []string{"main"}, Kernel: 1, State: OnCPU, Count: 2, Nanoseconds: 20},
	}
}

func TestMerge(t *testing.T) {
	in := some()
	for g, want := range map[Grouping]string{
		PerThread:  "redis/1/1:900 redis/1/2:100 redis/1/1:70 redis/2/2:50 redis/1/1:30 kworker/0:1/4/4:20 evil;?[31m??</script>?/3/3:10",
		PerProcess: "redis/1/0:1000 redis/1/0:70 redis/2/0:50 redis/1/0:30 kworker/0:1/4/0:20 evil;?[31m??</script>?/3/0:10",
		PerComm:    "redis/0/0:1050 redis/0/0:70 redis/0/0:30 kworker/0:1/0/0:20 evil;?[31m??</script>?/0/0:10",
	} {
		var got []string
		for _, s := range Merge(in, g) {
			got = append(got, fmt.Sprintf("%s/%d/%d:%d", s.Comm, s.PID, s.TID, s.Nanoseconds))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("grouping %d:\n got %s\nwant %s", g, strings.Join(got, " "), want)
		}
	}
	if diff := cmp.Diff(some(), in); diff != "" {
		t.Errorf("the stacks given were changed:\n%s", diff)
	}
	// A kernel function and a program's of the same name are two.
	two := Merge([]Stack{{Frames: []string{"main"}, State: OnCPU}, {Frames: []string{"main"}, Kernel: 1, State: OnCPU}}, PerComm)
	if len(two) != 2 {
		t.Errorf("%+v", two)
	}
	deep := Stack{State: OnCPU, Kernel: 10_000}
	for i := range 10_000 {
		deep.Frames = append(deep.Frames, fmt.Sprint(i))
	}
	if s := Merge([]Stack{deep}, PerThread)[0]; len(s.Frames) != maxDepth || s.Frames[0] != "0" || s.Frames[maxDepth-1] != Cut || s.Kernel != maxDepth-1 {
		t.Errorf("a stack that is too deep: %d frames, %d of the kernel, the last %q", len(s.Frames), s.Kernel, s.Frames[len(s.Frames)-1])
	}
}

func TestFolded(t *testing.T) {
	var b bytes.Buffer
	if err := Folded(&b, Of(some(), OffCPU), Nanoseconds); err != nil {
		t.Fatal(err)
	}
	if want := "redis;main;aof;fsync;do_syscall_64_[k];vfs_fsync_range_[k] 1050\n"; b.String() != want {
		t.Errorf("off CPU:\n got %swant %s", b.String(), want)
	}
	b.Reset()
	if err := Folded(&b, Of(some(), OnCPU), Counts); err != nil {
		t.Fatal(err)
	}
	want := "evil:?[31m??</script>?;main;evil:?[31m??</script>? 1\nkworker/0:1;main_[k] 2\nredis;main 3\nredis;main;aof 7\n"
	if b.String() != want {
		t.Errorf("on CPU:\n got %swant %s", b.String(), want)
	}
}

func TestPprof(t *testing.T) {
	var b bytes.Buffer
	start := time.Date(2026, 11, 25, 3, 1, 40, 0, time.UTC)
	if err := Pprof(&b, some(), start, 3*time.Second); err != nil {
		t.Fatal(err)
	}
	p, err := profile.Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, s := range p.SampleType {
		types = append(types, s.Type+"/"+s.Unit)
	}
	if got := strings.Join(types, " "); got != "samples/count cpu/nanoseconds off-cpu/nanoseconds" {
		t.Errorf("sample types: %s", got)
	}
	if p.TimeNanos != start.UnixNano() || p.DurationNanos != 3e9 || len(p.Sample) != 7 {
		t.Errorf("time %d, duration %d, %d samples", p.TimeNanos, p.DurationNanos, len(p.Sample))
	}
	var sum [3]int64
	for _, s := range p.Sample {
		for i, v := range s.Value {
			sum[i] += v
		}
	}
	if sum != [3]int64{20, 130, 1050} {
		t.Errorf("sums %v", sum)
	}
	s := p.Sample[0]
	if s.NumLabel["pid"][0] != 1 || s.NumLabel["tid"][0] != 1 || s.Label["comm"][0] != "redis" || s.Value[2] != 900 {
		t.Errorf("the first sample: %+v", s)
	}
	var frames []string
	for _, l := range s.Location {
		frames = append(frames, l.Line[0].Function.Name+"@"+l.Mapping.File)
	}
	if got := strings.Join(frames, " "); got != "vfs_fsync_range@[kernel.kallsyms] do_syscall_64@[kernel.kallsyms] fsync@[user] aof@[user] main@[user]" {
		t.Errorf("frames: %s", got)
	}
	// Only what there is.
	b.Reset()
	if err := Pprof(&b, Of(some(), OffCPU), start, time.Second); err != nil {
		t.Fatal(err)
	}
	if p, err = profile.Parse(&b); err != nil || len(p.SampleType) != 2 || p.SampleType[1].Type != "off-cpu" {
		t.Errorf("off CPU only: %v %v", p.SampleType, err)
	}
	if err := Pprof(&b, []Stack{{State: "asleep"}}, start, 0); err == nil {
		t.Error("a state that there is not was written")
	}
}

// unfold reads a graph back into folded lines.
func unfold(f *Flames, g *Flame) map[string]uint64 {
	out := make(map[string]uint64)
	var path []string
	for i := 0; i+2 < len(g.Nodes); i += 3 {
		name := f.Names[g.Nodes[i+1]]
		if int(g.Nodes[i+1]) < f.KernelNames {
			name += "_[k]"
		}
		path = append(path[:g.Nodes[i]], name)
		if g.Nodes[i+2] > 0 {
			out[strings.Join(path, ";")] += g.Nodes[i+2]
		}
	}
	return out
}

func TestFlames(t *testing.T) {
	f := NewFlames(some(), MaxFlameBytes)
	if len(f.Graphs) != 2 || f.Graphs[0].Kind != OnCPU || f.Graphs[1].Kind != OffCPU {
		t.Fatalf("graphs: %+v", f.Graphs)
	}
	want := map[string]uint64{"evil;?[31m??</script>?;main;evil;?[31m??</script>?": 10, "kworker/0:1;main_[k]": 20, "redis;main": 30, "redis;main;aof": 70}
	if diff := cmp.Diff(want, unfold(f, &f.Graphs[0])); diff != "" {
		t.Errorf("on CPU:\n%s", diff)
	}
	want = map[string]uint64{"redis;main;aof;fsync;do_syscall_64_[k];vfs_fsync_range_[k]": 1050}
	if diff := cmp.Diff(want, unfold(f, &f.Graphs[1])); diff != "" {
		t.Errorf("off CPU:\n%s", diff)
	}
	if g := f.Graphs[0]; g.TotalNs != 130 || g.Stacks != 4 || g.OtherStacks != 0 {
		t.Errorf("on CPU: %d ns, %d stacks, %d others", g.TotalNs, g.Stacks, g.OtherStacks)
	}
	for _, none := range [][]Stack{nil, {{Comm: "x", State: OnCPU, Count: 1}}} {
		if f := NewFlames(none, MaxFlameBytes); f != nil {
			t.Errorf("graphs of no time: %+v", f)
		}
	}
}

// The documented example is what is written.
func TestFlamesJSON(t *testing.T) {
	b, err := json.Marshal(NewFlames([]Stack{{Comm: "redis-server", Frames: []string{"vfs_fsync_range", "main"}, Kernel: 1, State: OffCPU, Nanoseconds: 1200000000}}, MaxFlameBytes))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"names":["vfs_fsync_range","main","redis-server"],"kernel_names":1,"graphs":[{"kind":"off_cpu","total_ns":1200000000,"stacks":1,"other_stacks":0,"nodes":[0,2,0,1,1,0,2,0,1200000000]}]}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

// However many stacks there are, and whatever their names, the JSON stays
// within its limit, no time is lost, and nothing shown is smaller than what is
// not.
func TestFlamesStayWithinTheirLimit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round, nasty := range []bool{false, true} {
		var in []Stack
		total := map[State]uint64{}
		for range 4000 {
			s := Stack{Comm: fmt.Sprintf("comm%d", r.IntN(40)), State: OnCPU, Nanoseconds: 1 + uint64(r.ExpFloat64()*1e6)}
			if r.IntN(2) == 0 {
				s.State = OffCPU
			}
			for range 5 + r.IntN(60) {
				name := fmt.Sprintf("some_function_%d", r.IntN(2000))
				if nasty {
					name = strings.Repeat("<&>", 1+r.IntN(100)) + name
				}
				s.Frames = append(s.Frames, name)
			}
			s.Kernel = r.IntN(len(s.Frames))
			total[s.State] += s.Nanoseconds
			in = append(in, s)
		}
		f := NewFlames(in, MaxFlameBytes)
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > MaxFlameBytes || len(b) < MaxFlameBytes/3 {
			t.Errorf("round %d: %d bytes", round, len(b))
		}
		t.Logf("round %d: %d bytes, %d nodes", round, len(b), (len(f.Graphs[0].Nodes)+len(f.Graphs[1].Nodes))/3)
		for i := range f.Graphs {
			g := &f.Graphs[i]
			lines := unfold(f, g)
			var sum uint64
			for _, ns := range lines {
				sum += ns
			}
			if sum != total[g.Kind] || g.TotalNs != sum {
				t.Errorf("round %d, %s: %d ns in the graph, total %d, want %d", round, g.Kind, sum, g.TotalNs, total[g.Kind])
			}
			if g.OtherStacks == 0 || len(lines)-1 != g.Stacks-g.OtherStacks {
				t.Errorf("round %d, %s: %d of %d stacks are other, %d are shown", round, g.Kind, g.OtherStacks, g.Stacks, len(lines)-1)
			}
			var largest uint64
			for _, s := range Merge(Of(in, g.Kind), PerComm)[:g.Stacks-g.OtherStacks] {
				largest += s.Nanoseconds
			}
			if shown := sum - lines[Other]; shown != largest {
				t.Errorf("round %d, %s: %d ns are shown, the largest stacks are %d", round, g.Kind, shown, largest)
			}
		}
	}
}

func FuzzWriters(f *testing.F) {
	f.Add("redis", "main", "evil;\n", int8(1), uint64(10), uint64(3))
	f.Fuzz(func(t *testing.T, comm, outer, inner string, kernel int8, ns, count uint64) {
		in := []Stack{{Comm: comm, Frames: []string{inner, outer}, Kernel: int(kernel), State: OnCPU, Count: count, Nanoseconds: ns >> 1}}
		var b bytes.Buffer
		if err := Folded(&b, in, Counts); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(b.String(), "\n"); count > 0 && (n != 1 || strings.Count(b.String(), ";") != 2) || count == 0 && n != 0 {
			t.Fatalf("folded: %q", b.String())
		}
		b.Reset()
		if err := Pprof(&b, in, time.Unix(0, 0), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := profile.Parse(&b); err != nil {
			t.Fatal(err)
		}
		if g := NewFlames(in, MaxFlameBytes); g != nil && g.Graphs[0].TotalNs != ns>>1 {
			t.Fatalf("%+v", g)
		}
	})
}
