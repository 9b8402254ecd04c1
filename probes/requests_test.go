package probes

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

// exactWorld is what BPF would tell of a service, read by a requests probe at a
// made-up time.
type exactWorld struct {
	t       *testing.T
	p       *requests
	focus   *freezeframe.Focus
	now     freezeframe.Instant
	turn    int
	flight  map[freezeframe.Key]map[string]uint64 // told at every reading
	ended   []map[string]uint64                   // told at the next
	second  map[string]uint64                     // what is counted in each second
	reports []report
}

func newExactWorld(t *testing.T) *exactWorld {
	focus := &freezeframe.Focus{}
	w := &exactWorld{t: t, focus: focus, p: newRequests(newHub(Options{Focus: focus}), &serviceOwners{}),
		now: freezeframe.Instant(time.Hour), flight: map[freezeframe.Key]map[string]uint64{},
		second: map[string]uint64{"service": 1080, "pid": 4321, "comm": 7}}
	w.step(100 * time.Millisecond)
	return w
}

// quick has the service answer so many requests a second, each within d.
func (w *exactWorld) quick(n int, d time.Duration) {
	for _, kind := range []string{"accept", "receive", "answer"} {
		w.second[kind+"s"] = uint64(n)
		for _, q := range []string{"_p50_ns", "_p90_ns", "_p99_ns", "_max_ns"} {
			w.second[kind+q] = uint64(d)
		}
	}
}

// step takes readings, one each 50 ms, for d.
func (w *exactWorld) step(d time.Duration) {
	for end := w.now.Add(d); w.now < end; {
		w.now = w.now.Add(50 * time.Millisecond)
		if w.turn++; w.turn%20 == 0 {
			src, t := table(serviceColumns, map[freezeframe.Key]map[string]uint64{web: w.second}, w.now)
			src.Name = "services"
			w.p.Observe(src, t)
		}
		rows := map[freezeframe.Key]map[string]uint64{}
		for key, row := range w.flight {
			rows[key] = row
		}
		for i, row := range w.ended {
			rows[freezeframe.Key(1000+i)] = row
		}
		w.ended = nil
		src, t := table(requestColumns, rows, w.now)
		src.Name = "requests"
		w.p.Observe(src, t)
		for more := true; more; {
			select {
			case r := <-w.p.out:
				if r.kind >= 0 {
					w.reports = append(w.reports, r)
				}
			default:
				more = false
			}
		}
	}
}

// wait is a row of one.
func (w *exactWorld) wait(cookie uint64, kind int, began freezeframe.Instant, more map[string]uint64) map[string]uint64 {
	row := map[string]uint64{"kind": uint64(kind), "listener": uint64(web), "service": 1080, "cookie": cookie, "pid": 4321, "tid": 4330, "comm": 7,
		"began_at": uint64(began), "answers": 40}
	for k, v := range more {
		row[k] = v
	}
	return row
}

func (w *exactWorld) end(row map[string]uint64, state int, done freezeframe.Instant) {
	out := map[string]uint64{}
	for k, v := range row {
		out[k] = v
	}
	out["state"], out["done_at"] = uint64(state), uint64(done)
	w.ended = append(w.ended, out)
}

// best returns the highest quality of a report that would open an incident.
func (w *exactWorld) best(kind int8) (q float32) {
	for _, r := range w.reports {
		if r.kind == kind && r.age() >= max(r.floor, 4*r.usual) {
			q = max(q, r.quality)
		}
	}
	return q
}

func TestExactWaitInFlightAndAfter(t *testing.T) {
	for kind := range 3 {
		t.Run(serviceProbes[kind], func(t *testing.T) {
			w := newExactWorld(t)
			w.quick(40, 2*time.Millisecond)
			w.step(4 * time.Second)
			began := w.now.Add(13 * time.Millisecond)
			w.step(50 * time.Millisecond)
			row := w.wait(5, kind, began, nil)
			w.flight[5] = row
			w.step(200 * time.Millisecond)
			if q := w.best(int8(kind)); q < 0.9 {
				t.Fatalf("while in flight: quality %v, want 0.9", q)
			}
			if !w.focus.Stalled(w.now) {
				t.Error("the full rate was not asked for")
			}
			delete(w.flight, 5)
			w.end(row, bpf.ToldDone, began.Add(271234567))
			w.step(100 * time.Millisecond)
			r := w.reports[len(w.reports)-1]
			if r.kind != int8(kind) || r.began != began || r.done != began.Add(271234567) || r.target != 1080 || r.pid != 4321 || r.tid != 4330 || r.floor != exactFloor {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A wait that came and went between two readings.
func TestExactWaitThatNoReadingSaw(t *testing.T) {
	for kind := range 3 {
		w := newExactWorld(t)
		w.quick(40, 2*time.Millisecond)
		w.step(4 * time.Second)
		w.end(w.wait(5, kind, w.now.Add(-130*time.Millisecond), nil), bpf.ToldDone, w.now.Add(-5*time.Millisecond))
		w.step(50 * time.Millisecond)
		if q := w.best(int8(kind)); q < 0.9 {
			t.Errorf("%s: quality %v, want 0.9", serviceProbes[kind], q)
		}
	}
}

// The same wait beside others that were answered is one slow request; two in a
// row are a slow service.
func TestExactSlowRequest(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	slow := func(cookie uint64) {
		w.end(w.wait(cookie, waitAnswer, w.now.Add(-250*time.Millisecond), map[string]uint64{"answered_at": uint64(w.now.Add(-20 * time.Millisecond))}),
			bpf.ToldDone, w.now.Add(-5*time.Millisecond))
		w.step(300 * time.Millisecond)
	}
	slow(5)
	if q := w.best(waitAnswer); q != lonely {
		t.Errorf("one: quality %v, want %v", q, lonely)
	}
	slow(6)
	if q := w.best(waitAnswer); q < 0.5 {
		t.Errorf("two: quality %v", q)
	}
}

// Four requests that take long at a time, of a service that answers fifty others
// a second as ever, are slow requests; where it answers few others they are most
// of what it does.
func TestExactFewSlowAmongMany(t *testing.T) {
	for _, c := range []struct {
		others int
		slow   uint64
		opens  bool
	}{{50, 4, false}, {4, 4, true}, {6, 3, true}} {
		w := newExactWorld(t)
		w.quick(c.others, 2*time.Millisecond)
		w.step(70 * time.Second) // it is known for long
		began := w.now
		for cookie := uint64(5); cookie < 5+c.slow; cookie++ {
			w.flight[freezeframe.Key(cookie)] = w.wait(cookie, waitAnswer, began, nil)
		}
		for w.now < began.Add(2*time.Second) {
			for _, row := range w.flight {
				row["answered_at"] = uint64(w.now.Add(47 * time.Millisecond)) // 3 ms before the reading
			}
			w.step(50 * time.Millisecond)
		}
		if q := w.best(waitAnswer); (q > lonely) != c.opens {
			t.Errorf("%d beside %d others a second: quality %v", c.slow, c.others, q)
		}
	}
}

// When a quarter of all requests are slow, the service is, however long they
// take and however many are answered meanwhile.
func TestExactPartlySlow(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	for cookie := uint64(10); cookie < 30; cookie++ {
		w.end(w.wait(cookie, waitAnswer, w.now.Add(-900*time.Millisecond), map[string]uint64{"answered_at": uint64(w.now.Add(-20 * time.Millisecond))}),
			bpf.ToldDone, w.now.Add(-5*time.Millisecond))
	}
	w.step(50 * time.Millisecond)
	if q := w.best(waitAnswer); q < 0.5 {
		t.Errorf("twenty of forty: quality %v", q)
	}
}

// An endpoint that is slow by design, one request at a time beside many quick
// ones, opens nothing; when it was always so it is not even worth a mention.
func TestExactSlowByDesign(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	slow := func(d time.Duration) float32 {
		w.reports = nil
		began := w.now
		row := w.wait(5, waitAnswer, began, nil)
		w.flight[5] = row
		for w.now < began.Add(d) {
			row["answered_at"] = uint64(w.now.Add(-3 * time.Millisecond))
			w.step(50 * time.Millisecond)
		}
		delete(w.flight, 5)
		w.end(row, bpf.ToldDone, w.now)
		w.step(20 * time.Second)
		return w.reports[len(w.reports)-1].quality
	}
	if q := slow(3 * time.Second); q != lonely {
		t.Errorf("at first sight: quality %v, want %v", q, lonely)
	}
	slow(3 * time.Second)
	slow(3 * time.Second)
	if q := slow(3 * time.Second); q >= lonely {
		t.Errorf("when it has always been so: quality %v", q)
	}
	if q := slow(6 * time.Second); q != lonely {
		t.Errorf("twice as long as ever: quality %v, want %v", q, lonely)
	}
}

// Nothing is known of a service whose answers take long when it is first seen.
func TestExactFirstSight(t *testing.T) {
	w := newExactWorld(t)
	w.step(4 * time.Second)
	w.flight[5] = w.wait(5, waitAnswer, w.now, map[string]uint64{"answers": 0})
	w.step(5 * time.Second)
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("of a service that has never answered: quality %v", q)
	}
	// One that has answered a few, quickly: the next may be of another kind.
	w = newExactWorld(t)
	w.quick(2, time.Millisecond)
	w.step(4 * time.Second)
	w.quick(0, 0)
	for cookie := uint64(5); cookie < 8; cookie++ {
		w.flight[freezeframe.Key(cookie)] = w.wait(cookie, waitAnswer, w.now, map[string]uint64{"answers": 8})
	}
	w.step(5 * time.Second)
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("of a service that has answered eight: quality %v", q)
	}
}

// Long polls: some wait at all times.
func TestExactLongPoll(t *testing.T) {
	w := newExactWorld(t)
	w.quick(1, 25*time.Second)
	var began [3]freezeframe.Instant
	for range 400 {
		for i := range began {
			key := freezeframe.Key(5 + i)
			if began[i] == 0 || w.now.Sub(began[i]) > time.Duration(20+i)*time.Second {
				if began[i] != 0 {
					w.end(w.flight[key], bpf.ToldDone, w.now)
				}
				began[i] = w.now
				w.flight[key] = w.wait(uint64(key), waitAnswer, w.now, nil)
			}
		}
		w.step(200 * time.Millisecond)
	}
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
}

// A stall of many clients does not become usual, and the second is seen too.
func TestExactStallsAgain(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	for stall := range 4 {
		w.reports = nil
		began := w.now
		for cookie := uint64(100); cookie < 140; cookie++ {
			w.flight[freezeframe.Key(cookie)] = w.wait(cookie, waitAnswer, began, nil)
		}
		w.quick(0, 0)
		w.step(1500 * time.Millisecond)
		if q := w.best(waitAnswer); q < 0.9 {
			t.Fatalf("stall %d: quality %v, want 0.9", stall, q)
		}
		for key, row := range w.flight {
			delete(w.flight, key)
			w.end(row, bpf.ToldDone, w.now)
		}
		w.quick(60, 1500*time.Millisecond) // what that second holds
		w.step(time.Second)
		w.quick(40, 2*time.Millisecond)
		w.step(5 * time.Second)
	}
}

// A service that stalls every few seconds is not one whose answers usually take
// that long: a short stall of it is one as well, and its evidence is gathered.
func TestExactStallsOften(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	seconds := 0
	calm := func(n int) {
		for range n {
			seconds++
			longest := uint64([]time.Duration{10, 19, 12, 6, 15, 40, 9, 75}[seconds%8] * time.Millisecond)
			w.second["answer_p99_ns"], w.second["answer_max_ns"] = longest, longest
			w.step(time.Second)
		}
	}
	calm(8)
	stall := func(d time.Duration) {
		began := w.now
		for cookie := uint64(100); cookie < 105; cookie++ {
			w.flight[freezeframe.Key(cookie)] = w.wait(cookie, waitAnswer, began, nil)
		}
		w.step(d)
		for key, row := range w.flight {
			delete(w.flight, key)
			w.end(row, bpf.ToldDone, w.now)
		}
		for _, q := range []string{"answer_p90_ns", "answer_p99_ns", "answer_max_ns"} {
			w.second[q] = uint64(d)
		}
		w.step(time.Second)
		w.quick(40, 2*time.Millisecond)
		calm(2)
	}
	for _, ms := range []time.Duration{150, 300, 110, 500, 120, 250, 800, 170, 400, 130, 1200, 200, 350, 140} {
		stall(ms * time.Millisecond)
	}
	w.reports = nil
	stall(150 * time.Millisecond)
	var longest report
	for _, r := range w.reports {
		if r.kind == waitAnswer && r.quality >= 0.5 && r.age() > longest.age() {
			longest = r
		}
	}
	if longest.age() < 4*longest.usual || longest.kind == 0 {
		t.Errorf("a stall of 150 ms was reported as %v long where %v is usual (quality %v)", longest.age(), longest.usual, longest.quality)
	}
}

// A slow start is forgotten with the first seconds that are not: a stall a few
// seconds later is one.
func TestExactSlowStart(t *testing.T) {
	w := newExactWorld(t)
	for cookie := uint64(10); cookie < 16; cookie++ {
		w.end(w.wait(cookie, waitAnswer, w.now, nil), bpf.ToldDone, w.now.Add(134*time.Millisecond))
	}
	w.step(200 * time.Millisecond)
	w.quick(20, 2*time.Millisecond)
	w.step(time.Second)
	w.quick(36, 10*time.Millisecond)
	w.step(3 * time.Second)
	for cookie := uint64(100); cookie < 104; cookie++ {
		w.flight[freezeframe.Key(cookie)] = w.wait(cookie, waitAnswer, w.now, nil)
	}
	w.step(300 * time.Millisecond)
	if q := w.best(waitAnswer); q < 0.5 {
		t.Errorf("a stall of 300 ms: quality %v", q)
	}
	if s := w.p.listeners.find(web); s.usual[waitAnswer].ordinary() > 20*time.Millisecond {
		t.Errorf("three seconds after a slow start %v is usual", s.usual[waitAnswer].ordinary())
	}
}

// A request of which pieces may be on their way, while those of others are not
// even taken: the service is stuck.
func TestExactUnreadBesidePieces(t *testing.T) {
	for _, unread := range []bool{false, true} {
		w := newExactWorld(t)
		w.quick(40, 2*time.Millisecond)
		w.step(10 * time.Second)
		s := w.p.listeners.find(web)
		s.pieces = 5
		w.flight[100] = w.wait(100, waitAnswer, w.now, nil)
		if unread {
			w.flight[101] = w.wait(101, waitReceive, w.now.Add(10*time.Millisecond), nil)
		}
		w.step(250 * time.Millisecond)
		if q := w.best(waitAnswer); (q >= 0.5) != unread {
			t.Errorf("others are not taken %v: quality %v", unread, q)
		}
	}
}

// More of the request came: it was not complete.
func TestExactSuperseded(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	for i := range 20 {
		// At first sight nobody can tell that it is not complete.
		if i == 3 {
			w.step(time.Second)
			w.reports = nil
		}
		row := w.wait(uint64(5+i), waitAnswer, w.now, nil)
		w.flight[5] = row
		w.step(190 * time.Millisecond)
		delete(w.flight, 5)
		w.end(row, bpf.ToldSuperseded, w.now)
	}
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
	ends := 0
	for _, r := range w.reports {
		if r.done != 0 {
			if ends++; r.quality > 0.2 {
				t.Errorf("a piece ended as if it had been answered: %+v", r)
			}
		}
	}
	if ends == 0 {
		t.Error("what was told in flight was not taken back")
	}
}

// A connection of which messages are often not answered, at a service that
// answers: a web socket.
func TestExactMessagesWithoutAnswer(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	w.flight[5] = w.wait(5, waitAnswer, w.now, map[string]uint64{"answers": 3, "unanswered": 9})
	w.step(2 * time.Second)
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
}

// The socket is gone without a word: its wait does not go on.
func TestExactVanished(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	w.flight[5] = w.wait(5, waitAnswer, w.now, nil)
	w.step(500 * time.Millisecond)
	delete(w.flight, 5)
	w.step(2 * time.Second)
	r := w.reports[len(w.reports)-1]
	if r.done == 0 || r.age() > 1200*time.Millisecond {
		t.Errorf("%+v took %v", r, r.age())
	}
	if n := w.p.conns.n; n != 0 {
		t.Errorf("%d connections are kept", n)
	}
}

// What services would infer is not told twice.
func TestServicesLeaveItToRequests(t *testing.T) {
	w := newWorld(t)
	w.serve(5, 40, 10*time.Millisecond)
	w.step(3 * time.Second)
	w.reports = nil
	row := w.conns[5]
	row["received_at"], row["bytes_received"] = uint64(w.now), row["bytes_received"]+100
	w.listeners[web]["queue"] = 1
	for range 20 {
		w.p.hub.exactAt.Store(int64(w.now))
		w.step(50 * time.Millisecond)
	}
	if len(w.reports) != 0 {
		t.Fatalf("%d reports, first %+v", len(w.reports), w.reports[0])
	}
	// BPF has gone away: a wait that goes on is found again.
	row["received_at"], row["bytes_received"] = uint64(w.now), row["bytes_received"]+100
	w.step(4 * time.Second)
	if w.best(waitAccept) < 0.9 {
		t.Error("without BPF the queue is not seen again")
	}
}

// Where BPF tells of TCP only, Unix sockets are still looked at.
func TestUnixSocketsStayWithServices(t *testing.T) {
	for onlyTCP, want := range map[bool]bool{true: true, false: false} {
		w := newWorld(t)
		w.p.hub.OnlyTCP = onlyTCP
		w.listeners[web]["port"] = 0
		w.step(3 * time.Second)
		w.reports = nil
		w.listeners[web]["queue"] = 1
		for range 80 {
			w.p.hub.exactAt.Store(int64(w.now))
			w.step(50 * time.Millisecond)
		}
		if got := w.best(waitAccept) >= 0.9; got != want {
			t.Errorf("only TCP %t: the queue of a Unix socket is seen: %t", onlyTCP, got)
		}
	}
}

func TestObserveRequestsWithoutAllocating(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	rows := map[freezeframe.Key]map[string]uint64{}
	for cookie := uint64(1); cookie <= 600; cookie++ {
		rows[freezeframe.Key(cookie)] = w.wait(cookie, int(cookie%3), w.now, nil)
	}
	src, tab := table(requestColumns, rows, w.now)
	src.Name = "requests"
	ssrc, stab := table(serviceColumns, map[freezeframe.Key]map[string]uint64{web: w.second}, w.now)
	ssrc.Name = "services"
	if n := testing.AllocsPerRun(100, func() {
		w.now = w.now.Add(50 * time.Millisecond)
		tab.At, stab.At = w.now, w.now
		w.p.Observe(src, tab)
		w.p.Observe(ssrc, stab)
		for len(w.p.out) > 0 {
			<-w.p.out
		}
	}); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}

// A stall that grows over seconds does not make itself usual before it is one;
// what stays slow without being one does in some minutes.
func TestExactStallThatGrows(t *testing.T) {
	grow := func(w *exactWorld) {
		w.quick(200, 5*time.Millisecond)
		w.step(6 * time.Second)
		for _, d := range []time.Duration{20, 45, 100} {
			w.second["answer_p99_ns"], w.second["answer_max_ns"] = uint64(d*time.Millisecond), uint64(d*time.Millisecond)
			w.step(time.Second)
		}
	}
	slow := func(w *exactWorld) float32 {
		w.reports = nil
		for cookie := uint64(10); cookie < 90; cookie++ {
			w.end(w.wait(cookie, waitAnswer, w.now.Add(-180*time.Millisecond), map[string]uint64{"answered_at": uint64(w.now.Add(-20 * time.Millisecond))}),
				bpf.ToldDone, w.now.Add(-5*time.Millisecond))
		}
		w.step(50 * time.Millisecond)
		return w.best(waitAnswer)
	}
	w := newExactWorld(t)
	grow(w)
	if q := slow(w); q < 0.5 {
		t.Errorf("while it grows: quality %v", q)
	}
	w = newExactWorld(t)
	grow(w)
	w.quick(200, 100*time.Millisecond)
	w.step(afterwards + 2*time.Minute)
	if q := slow(w); q >= 0.5 {
		t.Errorf("when it has been so for long: quality %v", q)
	}
}

// A service that was slow when it started has a p99 that says little: what is
// longer than is ordinary there belongs to a stall, though it proves nothing.
func TestExactEdges(t *testing.T) {
	begin := func() *exactWorld {
		w := newExactWorld(t)
		w.quick(27, 5*time.Millisecond)
		w.second["answer_p90_ns"], w.second["answer_p99_ns"], w.second["answer_max_ns"] = uint64(54*time.Millisecond), uint64(92*time.Millisecond), uint64(92*time.Millisecond)
		w.step(time.Second)
		w.quick(60, 5*time.Millisecond)
		w.step(time.Second)
		w.reports = nil
		return w
	}
	w := begin()
	request := func(took time.Duration, more map[string]uint64) (last *report) {
		n := len(w.reports)
		w.end(w.wait(5, waitAnswer, w.now.Add(-took), more), bpf.ToldDone, w.now)
		w.step(50 * time.Millisecond)
		if len(w.reports) > n {
			last = &w.reports[len(w.reports)-1]
		}
		return last
	}
	others := map[string]uint64{"answered_at": uint64(w.now)}
	r := request(60*time.Millisecond, others)
	if r == nil || r.quality != lonely || r.edge != noticed || r.age() >= max(r.floor, 4*r.usual) {
		t.Errorf("60 ms where 5 are ordinary: %+v, want quality %v from %v on, and that it opens nothing", r, lonely, noticed)
	}
	if r := request(47*time.Millisecond, others); r != nil && r.quality >= lonely && r.age() >= r.edge {
		t.Errorf("47 ms, which nobody notices: %+v", r)
	}
	if r := request(60*time.Millisecond, map[string]uint64{"answered_at": uint64(w.now), "unanswered": 40}); r != nil && r.quality >= lonely {
		t.Errorf("on a connection whose requests are not always answered: %+v", r)
	}
	w = begin()
	w.quick(60, 45*time.Millisecond)
	w.step(8 * time.Second)
	if r := request(80*time.Millisecond, others); r != nil && r.quality >= lonely && r.age() >= r.edge {
		t.Errorf("80 ms where 45 are ordinary: %+v", r)
	}
}

// Of a service whose answers take long now and then one that takes twice as long
// is nothing; when half of them do at a time it is no chance.
func TestExactManySlow(t *testing.T) {
	for _, many := range []int{1, 16} {
		w := newExactWorld(t)
		w.quick(40, 60*time.Millisecond)
		w.step(12 * time.Second)
		w.reports = nil
		for i := range many {
			w.end(w.wait(uint64(10+i), waitAnswer, w.now.Add(-190*time.Millisecond), map[string]uint64{"answered_at": uint64(w.now.Add(-2 * time.Millisecond))}),
				bpf.ToldDone, w.now)
		}
		w.step(50 * time.Millisecond)
		if q := w.best(waitAnswer); (q >= 0.5) != (many > 1) {
			t.Errorf("%d of 40 requests took 190 ms, and 60 are usual: quality %v", many, q)
		}
	}
}

// Seconds in which answers are slow say how the service works only later: a
// stall of its first seconds would be usual before it is one.
func TestExactSlowSecondsCountLater(t *testing.T) {
	w := newExactWorld(t)
	s := &service{}
	count := func(d time.Duration, slowOnes uint16) {
		for end := w.now.Add(d); w.now < end; w.now = w.now.Add(50 * time.Millisecond) {
			s.slowNow = slowOnes
			w.p.countReading(s, w.now)
		}
	}
	count(3*time.Second, 0)
	count(3*time.Second, 1)
	if s.slowOften() {
		t.Error("a stall of three seconds is usual while it lasts")
	}
	count(60*time.Second, 1)
	if !s.slowOften() {
		t.Error("what is slow for a minute is not usual")
	}
}

// Nobody is seen to wait for a service that answers nobody.
func TestExactOneWay(t *testing.T) {
	for _, answers := range []uint64{0, 40} {
		w := newExactWorld(t)
		w.quick(40, 2*time.Millisecond)
		w.second["answers"] = answers
		w.step(4 * time.Second)
		w.flight[5] = w.wait(5, waitReceive, w.now, map[string]uint64{"answers": answers})
		w.step(400 * time.Millisecond)
		if w.best(waitReceive) < 0.5 {
			t.Fatalf("%d answers: nothing is reported", answers)
		}
		if r := w.reports[len(w.reports)-1]; r.oneWay != (answers == 0) {
			t.Errorf("%d answers: one way %t", answers, r.oneWay)
		}
	}
}

// Evidence is looked at while a wait is still short and worth nothing, where it is
// far beyond the half of its service's; but not all day.
func TestEvidenceIsLookedAtEarly(t *testing.T) {
	w := newExactWorld(t)
	w.quick(40, 2*time.Millisecond)
	w.step(4 * time.Second)
	short := func() {
		w.t.Helper()
		began := w.now
		row := w.wait(5, bpf.WaitAnswer, began, map[string]uint64{"answered_at": uint64(began)})
		w.flight[5] = row
		w.step(50 * time.Millisecond)
		delete(w.flight, 5)
		w.end(row, bpf.ToldDone, w.now)
		w.step(50 * time.Millisecond)
	}
	w.flight[9] = w.wait(9, bpf.WaitAnswer, w.now.Add(40*time.Millisecond), nil)
	w.step(50 * time.Millisecond)
	if w.focus.Stalled(w.now) {
		t.Error("a wait like others is looked at")
	}
	delete(w.flight, 9)
	short()
	if !w.focus.Stalled(w.now) {
		t.Fatal("a wait of 50 ms at a service of 2 ms is not looked at")
	}
	w.step(2 * time.Second)
	if w.focus.Stalled(w.now) {
		t.Error("it is looked at for long")
	}
	short()
	if w.focus.Stalled(w.now) {
		t.Error("it is looked at again at once")
	}
	w.step(earlyEvery)
	short()
	if !w.focus.Stalled(w.now) {
		t.Error("it is not looked at again")
	}
}
