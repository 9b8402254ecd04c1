package bpf

import (
	"testing"
)

type counter struct {
	tasks, processes, places, lives int
	clocks                          map[int]int64
}

func (c *counter) Clock(cpu int, ahead int64) {
	if c.clocks == nil {
		c.clocks = map[int]int64{}
	}
	c.clocks[cpu] = ahead
}
func (c *counter) Process(*Process) { c.processes++ }
func (c *counter) Task(*Task)       { c.tasks++ }
func (c *counter) Place(*Place)     { c.places++ }
func (c *counter) Lives(int32)      { c.lives++ }

func TestTmp(t *testing.T) {
	ts := load(t).Tasks
	for _, f := range []uint32{TasksFull | TasksWide, TasksFull | TasksWide | TasksPlaces | TasksPlacesAll, TasksAlive, 0, 0, TasksWide | TasksAlive, 0, 0} {
		var c counter
		if err := ts.Pass(f, &c); err != nil {
			t.Fatal(err)
		}
		t.Logf("%#x %+v", f, c)
	}
}
func BenchmarkPass(b *testing.B) {
	p := Load(Options{})
	defer p.Close()
	ts := p.Tasks
	if ts == nil {
		b.Fatal(p.Needs())
	}
	for name, f := range map[string]uint32{"full": TasksFull | TasksWide, "places": TasksFull | TasksWide | TasksPlaces | TasksPlacesAll, "alive": TasksAlive, "delta": 0} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var c counter
			n := 0
			for b.Loop() {
				ts.Pass(f, &c)
				n++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)/float64(c.tasks+c.lives)*float64(n), "ns/rec")
			b.ReportMetric(float64(c.tasks)/float64(n), "tasks")
		})
	}
}
