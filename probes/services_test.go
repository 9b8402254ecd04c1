package probes

import (
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"freezeframe"
)

// world is a host's sockets, read by a services probe at a made-up time.
type world struct {
	t         *testing.T
	p         *services
	focus     *freezeframe.Focus
	now       freezeframe.Instant
	listeners map[freezeframe.Key]map[string]uint64
	conns     map[freezeframe.Key]map[string]uint64
	reports   []report
}

const web freezeframe.Key = 80

func newWorld(t *testing.T) *world {
	focus := &freezeframe.Focus{}
	w := &world{
		t: t, focus: focus, p: newServices(newHub(Options{Focus: focus})),
		now:       freezeframe.Instant(time.Hour),
		listeners: map[freezeframe.Key]map[string]uint64{web: {"address": 1080, "pid": 4321, "comm": 7}},
		conns:     map[freezeframe.Key]map[string]uint64{},
	}
	return w
}

func table(names []string, rows map[freezeframe.Key]map[string]uint64, at freezeframe.Instant) (*freezeframe.Source, *freezeframe.Table) {
	src := &freezeframe.Source{}
	for _, n := range names {
		src.Columns = append(src.Columns, freezeframe.Column{Name: n})
	}
	t := &freezeframe.Table{At: at, Due: at}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		row := t.Row(key, len(names))
		for name, v := range rows[key] {
			row[src.Column(name)] = v
		}
	}
	return src, t
}

// step takes readings, one each 50 ms, for d.
func (w *world) step(d time.Duration) {
	lsrc, _ := table(listenerColumns, nil, 0)
	lsrc.Name = "listeners"
	csrc, _ := table(connectionColumns, nil, 0)
	csrc.Name = "connections"
	for end := w.now.Add(d); w.now < end; {
		w.now = w.now.Add(50 * time.Millisecond)
		_, lt := table(listenerColumns, w.listeners, w.now)
		_, ct := table(connectionColumns, w.conns, w.now)
		w.p.Observe(lsrc, lt)
		w.p.Observe(csrc, ct)
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

// request makes a connection of the web service on which a request arrives now.
func (w *world) request(key freezeframe.Key, extra map[string]uint64) map[string]uint64 {
	row := map[string]uint64{"state": tcpEstablished, "server": 1, "listener": uint64(web), "inode": 1000 + uint64(key), "pid": 4321, "comm": 7,
		"received_at": uint64(w.now), "bytes_received": 100}
	maps.Copy(row, extra)
	w.conns[key] = row
	return row
}

// serve has a keep-alive connection answer requests that take d, one after the
// other, in plain sight.
func (w *world) serve(key freezeframe.Key, n int, d time.Duration) {
	row := w.request(key, map[string]uint64{"bytes_sent": 1000, "segs_out": 50, "sent_at": uint64(w.now)})
	w.step(50 * time.Millisecond)
	for range n {
		row["received_at"] = uint64(w.now)
		row["bytes_received"] += 100
		if d >= 50*time.Millisecond {
			w.step(d)
		}
		w.answer(row, freezeframe.Instant(row["received_at"]).Add(d), 1000)
		w.step(50 * time.Millisecond)
	}
}

// answer has a connection of the web service answered.
func (w *world) answer(row map[string]uint64, at freezeframe.Instant, bytes uint64) {
	row["sent_at"] = uint64(at)
	row["bytes_sent"] += bytes
	w.listeners[web]["answers"]++
	w.listeners[web]["answered_at"] = uint64(at)
}

// best returns the highest quality with which a kind of wait was reported at
// or beyond what opens an incident: its floor and four times the usual.
func (w *world) best(kind int8) float32 {
	var q float32
	for _, r := range w.reports {
		end := r.seen
		if r.done != 0 {
			end = r.done
		}
		if r.kind == kind && (r.over || end.Sub(r.began) >= max(r.floor, 4*r.usual)) {
			q = max(q, r.quality)
		}
	}
	return q
}

func (w *world) last(kind int8) report {
	w.t.Helper()
	for _, r := range slices.Backward(w.reports) {
		if r.kind == kind {
			return r
		}
	}
	w.t.Fatalf("no report of %s", serviceProbes[kind])
	return report{}
}

func TestAcceptQueueOfAConnectionNobodyAccepts(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	opened := w.now
	w.listeners[web]["queue"] = 1
	w.conns[5] = map[string]uint64{"state": tcpEstablished, "server": 1, "listener": uint64(web), "opened_at": uint64(opened), "pid": 4321, "comm": 7}
	w.step(300 * time.Millisecond)
	if q := w.best(waitAccept); q < 0.9 {
		t.Fatalf("while in flight: quality %v, want 0.9", q)
	}
	if !w.focus.Stalled(w.now) {
		t.Error("the full rate was not asked for")
	}
	w.step(700 * time.Millisecond)
	w.listeners[web]["queue"] = 0
	w.request(5, map[string]uint64{"received_at": 0, "bytes_received": 0})
	w.step(time.Second)
	r := w.last(waitAccept)
	if r.began != opened || r.done.Sub(opened) != 1025*time.Millisecond || r.target != 1080 || r.pid != 4321 {
		t.Errorf("began %v before or after it was opened, took %v, target %d, pid %d", r.began.Sub(opened), r.done.Sub(opened), r.target, r.pid)
	}
}

// Unix sockets have no rows of connections, only a queue.
func TestAcceptQueueAlone(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	w.listeners[web]["queue"] = 1
	w.step(200 * time.Millisecond)
	w.listeners[web]["queue"] = 3 // more come, nobody goes
	w.step(400 * time.Millisecond)
	if q := w.best(waitAccept); q < 0.9 {
		t.Fatalf("quality %v, want 0.9", q)
	}
	w.listeners[web]["queue"] = 0
	w.step(100 * time.Millisecond)
	if r := w.last(waitAccept); r.done == 0 || r.done.Sub(r.began) != 600*time.Millisecond {
		t.Errorf("done %v after it began, want 600ms", r.done.Sub(r.began))
	}
}

// A busy server has a queue most of the time, and works through it.
func TestAcceptQueueThatMoves(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	for i := range 60 {
		w.listeners[web]["queue"] = uint64(3 + i%2)
		w.step(50 * time.Millisecond)
	}
	if len(w.reports) != 0 {
		t.Errorf("%d reports, first %+v", len(w.reports), w.reports[0])
	}
}

func TestQueueThatWasThereWhenWeCame(t *testing.T) {
	w := newWorld(t)
	w.listeners[web]["queue"] = 2
	w.step(5 * time.Second)
	if q := w.best(waitAccept); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
}

func TestQueueOverflow(t *testing.T) {
	w := newWorld(t)
	w.listeners[web]["drops"] = 17 // of long ago
	w.step(4 * time.Second)
	if len(w.reports) != 0 {
		t.Fatalf("old drops were reported: %+v", w.reports[0])
	}
	w.listeners[web]["drops"] = 18
	w.step(50 * time.Millisecond)
	r := w.last(waitAccept)
	if !r.over || r.done.Sub(r.began) != 50*time.Millisecond {
		t.Errorf("%+v", r)
	}
	w.step(2 * time.Second)
	if len(w.reports) != 1 {
		t.Errorf("%d reports of one overflow", len(w.reports))
	}
}

func TestReceive(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	began := w.now
	row := w.request(5, map[string]uint64{"rqueue": 100})
	w.step(500 * time.Millisecond)
	if q := w.best(waitReceive); q < 0.9 {
		t.Fatalf("quality %v, want 0.9", q)
	}
	if w.best(waitAnswer) != 0 {
		t.Error("what was not read cannot be answered: one wait was reported as two")
	}
	row["rqueue"] = 0
	row["sent_at"] = uint64(w.now)
	row["bytes_sent"] = 10
	w.step(50 * time.Millisecond)
	if r := w.last(waitReceive); r.began != began || r.done.Sub(began) != 500*time.Millisecond {
		t.Errorf("began %v off, took %v", r.began.Sub(began), r.done.Sub(began))
	}
}

// A slow reader of a large upload is not a stall: it reads.
func TestUploadThatIsRead(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	row := w.request(5, map[string]uint64{"rqueue": 60000, "bytes_received": 60000})
	for range 40 {
		w.step(50 * time.Millisecond)
		row["bytes_received"] += 30000
		row["received_at"] = uint64(w.now)
	}
	if len(w.reports) != 0 {
		t.Errorf("%d reports, first %+v", len(w.reports), w.reports[0])
	}
}

// An upload that comes in pieces is not complete, so no answer is missing.
func TestUploadInPieces(t *testing.T) {
	w := newWorld(t)
	w.serve(9, 30, 10*time.Millisecond)
	delete(w.conns, 9)
	w.step(3 * time.Second)
	row := w.request(5, map[string]uint64{"bytes_sent": 500, "segs_out": 9, "sent_at": uint64(w.now.Add(-time.Second))})
	for range 30 {
		w.step(150 * time.Millisecond)
		row["bytes_received"] += 1000
		row["received_at"] = uint64(w.now)
	}
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
}

// What a client that closed its side left unread, nobody waits for.
func TestUnreadAfterTheClientClosed(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	const tcpCloseWait = 8
	w.request(5, map[string]uint64{"rqueue": 1, "state": tcpCloseWait})
	w.step(2 * time.Second)
	if len(w.reports) != 0 {
		t.Errorf("%+v", w.reports[0])
	}
}

func TestAnswerOfAServiceWithAHistory(t *testing.T) {
	w := newWorld(t)
	w.serve(5, 40, 10*time.Millisecond)
	w.step(3 * time.Second)
	w.reports = nil
	began := w.now
	row := w.conns[5]
	row["received_at"] = uint64(began)
	row["bytes_received"] += 100
	for range 8 { // the kernel tells ages in jiffies: received_at moves a little
		w.step(50 * time.Millisecond)
		row["received_at"]--
	}
	if q := w.best(waitAnswer); q < 0.9 {
		t.Fatalf("quality %v, want 0.9: it has answered 40 times within 10 ms", q)
	}
	row["sent_at"] = uint64(w.now.Add(20 * time.Millisecond))
	row["bytes_sent"] += 10
	w.step(50 * time.Millisecond)
	if r := w.last(waitAnswer); r.began != began || r.done.Sub(began) != 420*time.Millisecond {
		t.Errorf("began %v off, took %v: sent_at is exact", r.began.Sub(began), r.done.Sub(began))
	}
}

// A client that sends its next request in the same jiffy as it got the answer.
func TestAnswerToAClientInALoop(t *testing.T) {
	for _, tc := range []struct {
		name    string
		acks    uint64 // that the kernel sends by itself
		quality float32
	}{{"pending", 1, 0.9}, {"answered, and idle since", 0, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.serve(5, 40, 10*time.Millisecond)
			w.step(3 * time.Second)
			w.reports = nil
			row := w.conns[5]
			row["received_at"], row["sent_at"] = uint64(w.now), uint64(w.now)
			row["bytes_received"] += 100
			row["bytes_sent"] += 10
			w.step(50 * time.Millisecond)
			row["segs_out"] += tc.acks
			w.step(800 * time.Millisecond)
			if q := w.best(waitAnswer); q != tc.quality {
				t.Errorf("quality %v, want %v", q, tc.quality)
			}
			row["segs_out"]++ // a keep-alive, long after
			w.step(time.Second)
			if q := w.best(waitAnswer); q != tc.quality {
				t.Errorf("after a keep-alive: quality %v, want %v", q, tc.quality)
			}
		})
	}
}

// A second stall must be seen like the first: one stall with many waiting
// clients is no history.
func TestAnswerStallsAgain(t *testing.T) {
	w := newWorld(t)
	w.serve(5, 40, 10*time.Millisecond)
	w.step(3 * time.Second)
	for stall := range 4 {
		w.reports = nil
		for key := freezeframe.Key(100); key < 140; key++ {
			w.request(key, map[string]uint64{"bytes_sent": 500, "segs_out": 9, "sent_at": uint64(w.now.Add(-time.Second))})
		}
		w.step(1500 * time.Millisecond)
		if q := w.best(waitAnswer); q < 0.6 {
			t.Fatalf("stall %d: quality %v, want 0.6", stall, q)
		}
		open := make(map[freezeframe.Instant]int)
		for _, r := range w.reports {
			if r.done == 0 {
				open[r.seen]++
			}
		}
		for _, n := range open {
			if n > manyWaits {
				t.Fatalf("%d of 40 equal waits reported at once, want at most %d", n, manyWaits)
			}
		}
		for key := freezeframe.Key(100); key < 140; key++ {
			delete(w.conns, key)
		}
		w.step(time.Second)
		w.serve(5, 40, 10*time.Millisecond)
		w.step(2 * time.Second)
	}
}

func TestAnswerThatIsOftenLong(t *testing.T) {
	w := newWorld(t)
	w.serve(5, 30, 800*time.Millisecond)
	w.reports = nil
	w.serve(5, 5, 1200*time.Millisecond)
	if q := w.best(waitAnswer); q != 0 {
		t.Errorf("quality %v, want 0", q)
	}
	w.step(10 * time.Second)
	row := w.conns[5]
	row["received_at"] = uint64(w.now)
	row["bytes_received"] += 100
	w.step(time.Second)
	until := w.now.Add(time.Second)
	if w.p.hub.Focus.Stalled(until) && w.now.Sub(w.p.learnt) > 2*time.Second {
		t.Error("a usual wait asks for the full rate")
	}
}

// Long polling, BLPOP and the like: one connection always waits.
func TestLongPolling(t *testing.T) {
	w := newWorld(t)
	for i := range 8 {
		w.request(5, map[string]uint64{"bytes_sent": uint64(500 + i), "segs_out": 9, "sent_at": uint64(w.now.Add(-time.Millisecond))})
		w.step(5 * time.Second)
		w.conns[5]["sent_at"] = uint64(w.now)
		w.step(50 * time.Millisecond)
	}
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
}

// A web socket or a stream: the server sends whenever it likes.
func TestServerPush(t *testing.T) {
	w := newWorld(t)
	row := w.request(5, map[string]uint64{"bytes_sent": 500, "segs_out": 90})
	for range 200 {
		row["sent_at"] = uint64(w.now)
		row["bytes_sent"] += 100
		w.step(100 * time.Millisecond)
	}
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
}

// A receiver of logs never answers, on any of its connections.
func TestOneWay(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	for range 10 {
		for key := freezeframe.Key(5); key < 15; key++ {
			w.request(key, map[string]uint64{"bytes_received": 100 + uint64(w.now)})
		}
		w.step(time.Second)
	}
	if q := w.best(waitAnswer); q >= 0.5 {
		t.Errorf("quality %v", q)
	}
}

func TestAnswerAtFirstSight(t *testing.T) {
	fresh := map[string]uint64{}
	talking := map[string]uint64{"bytes_sent": 500, "segs_out": 9}
	for _, tc := range []struct {
		name      string
		rows      []map[string]uint64
		for_      time.Duration
		low, high float32
	}{
		{"a fresh connection alone", []map[string]uint64{fresh}, 2 * time.Second, 0.2, 0.2},
		{"a connection that has talked", []map[string]uint64{talking}, 700 * time.Millisecond, 0.3, 0.3},
		{"the same, early", []map[string]uint64{talking}, 400 * time.Millisecond, 0.2, 0.2},
		{"several, as long polls are", []map[string]uint64{talking, talking, fresh}, 900 * time.Millisecond, 0.3, 0.3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.step(5 * time.Second)
			for i, extra := range tc.rows {
				w.request(freezeframe.Key(i+5), extra)
			}
			w.step(tc.for_)
			if q := w.best(waitAnswer); q < tc.low || q > tc.high {
				t.Errorf("quality %v, want %v to %v", q, tc.low, tc.high)
			}
		})
	}
}

// A request that is slow by itself, while the service answers others.
func TestSlowEndpointOfAServiceThatWorks(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	w.request(5, map[string]uint64{"bytes_sent": 500, "segs_out": 9})
	w.serve(6, 10, 10*time.Millisecond)
	w.step(500 * time.Millisecond)
	if q := w.best(waitAnswer); q > 0.2 {
		t.Errorf("quality %v", q)
	}
}

func TestDelivery(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	lose := func(key freezeframe.Key, extra map[string]uint64) {
		row := w.request(key, map[string]uint64{"bytes_sent": 500, "unacked": 3, "retransmits": 1, "unacked_at": uint64(w.now.Add(-200 * time.Millisecond)),
			"sent_at": uint64(w.now), "acked_at": uint64(w.now.Add(-time.Minute)), "peer": uint64(key)})
		maps.Copy(row, extra)
	}
	lose(5, nil)
	w.step(500 * time.Millisecond)
	if r := w.last(waitDelivery); r.quality >= 0.5 {
		t.Errorf("one client that went away: quality %v", r.quality)
	} else if got := r.seen.Sub(r.began); got < 650*time.Millisecond || got > 750*time.Millisecond {
		t.Errorf("began %v ago; 500 ms and the first timeout of 200 ms have passed", got)
	}
	for key := freezeframe.Key(6); key < 14; key++ {
		lose(key, nil)
	}
	w.step(500 * time.Millisecond)
	if q := w.best(waitDelivery); q < 0.5 {
		t.Errorf("nine connections at once: quality %v", q)
	}
	// The web service itself waits for its database.
	w = newWorld(t)
	w.step(4 * time.Second)
	lose(5, map[string]uint64{"server": 0, "listener": 0})
	w.step(500 * time.Millisecond)
	if r := w.last(waitDelivery); r.quality < 0.5 || r.target != 5 {
		t.Errorf("a service's dependency: %+v", r)
	}
	// Or what it sends is dropped by its own host: probed, and not answered.
	w = newWorld(t)
	w.step(4 * time.Second)
	lose(5, map[string]uint64{"server": 0, "listener": 0, "retransmits": 0, "unacked": 0, "wqueue": 53, "probes": 1})
	w.step(500 * time.Millisecond)
	if q := w.best(waitDelivery); q >= 0.5 {
		t.Errorf("a peer that does not read: quality %v", q)
	}
	w.conns[5]["probes"] = 2
	w.step(500 * time.Millisecond)
	if r := w.last(waitDelivery); r.quality < 0.5 || r.target != 5 {
		t.Errorf("dropped on its way out: %+v", r)
	}
	w.conns[5]["probes"], w.conns[5]["wqueue"] = 0, 0
	w.conns[5]["retransmits"], w.conns[5]["unacked"], w.conns[5]["acked_at"] = 0, 0, uint64(w.now.Add(-10*time.Millisecond))
	acked := w.now.Add(-10 * time.Millisecond)
	w.step(50 * time.Millisecond)
	if r := w.last(waitDelivery); r.done != acked {
		t.Errorf("done %v off", r.done.Sub(acked))
	}
}

// A stall makes some waits a little longer than ever and others much longer.
// Were the first taken for usual the second soon would be, and the stall would
// seem to end in its first second.
func TestAStallDoesNotBecomeUsual(t *testing.T) {
	w := newWorld(t)
	w.serve(5, 80, 5*time.Millisecond)
	conns := []freezeframe.Key{5, 6, 7, 8}
	for _, key := range conns {
		w.request(key, map[string]uint64{"bytes_sent": 1000, "segs_out": 50, "sent_at": uint64(w.now)})
	}
	w.step(200 * time.Millisecond)
	for i, took := range []time.Duration{150, 50, 55, 140, 55, 110, 180, 220, 180, 250, 300, 250, 350, 400, 300} {
		took *= time.Millisecond
		w.reports = nil
		began := w.now
		for _, key := range conns {
			w.conns[key]["received_at"] = uint64(began)
			w.conns[key]["bytes_received"] += 100
		}
		w.step(took.Truncate(50 * time.Millisecond))
		for _, key := range conns {
			w.answer(w.conns[key], began.Add(took), 1000)
		}
		w.step(50 * time.Millisecond)
		if took < answerFloor {
			continue
		}
		for _, r := range w.reports {
			if r.kind == waitAnswer && r.done != 0 && r.quality < 0.5 {
				t.Errorf("wait %d, of %v: one of those that ended at once has quality %v", i, took, r.quality)
			}
		}
		if r := w.last(waitAnswer); r.quality < 0.5 || r.usual > 25*time.Millisecond {
			t.Fatalf("wait %d, of %v, after %v: quality %v, usual %v", i, took, w.now.Sub(w.p.began), r.quality, r.usual)
		}
	}
}

// What was lost is sent again after as long as it has waited already: when the
// network is well again, which new connections show, the waits go on.
func TestDeliveryAfterTheLoss(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	for key := freezeframe.Key(6); key < 12; key++ {
		w.request(key, map[string]uint64{"bytes_sent": 500, "unacked": 3, "retransmits": 1, "unacked_at": uint64(w.now.Add(-200 * time.Millisecond)),
			"sent_at": uint64(w.now), "acked_at": uint64(w.now.Add(-time.Minute)), "peer": uint64(key)})
	}
	w.step(800 * time.Millisecond)
	for key := freezeframe.Key(7); key < 12; key++ {
		w.conns[key]["retransmits"], w.conns[key]["unacked"], w.conns[key]["acked_at"] = 0, 0, uint64(w.now)
	}
	w.step(900 * time.Millisecond)
	if r := w.last(waitDelivery); r.quality < 0.5 || r.target != 6 {
		t.Errorf("0.9 s after the loss that had lasted 1 s: quality %v", r.quality)
	}
	w.step(time.Second)
	if r := w.last(waitDelivery); r.quality >= 0.5 {
		t.Errorf("1.9 s after the loss that had lasted 1 s: quality %v; this client has gone away", r.quality)
	}
}

// A client that gave up has closed; that its kernel still sends for it keeps
// nobody waiting. What a server sent before it closed, its client waits for.
func TestDeliveryOfAnOrphan(t *testing.T) {
	for _, server := range []uint64{0, 1} {
		w := newWorld(t)
		w.step(4 * time.Second)
		for key := freezeframe.Key(6); key < 12; key++ {
			w.request(key, map[string]uint64{"server": server, "bytes_sent": 500, "unacked": 3, "retransmits": 1, "unacked_at": uint64(w.now.Add(-200 * time.Millisecond)),
				"sent_at": uint64(w.now), "acked_at": uint64(w.now.Add(-time.Minute)), "peer": uint64(key)})
		}
		w.step(600 * time.Millisecond)
		if q := w.best(waitDelivery); q < 0.5 {
			t.Fatalf("server %d, open: quality %v", server, q)
		}
		const finWait1 = 4
		for key := freezeframe.Key(6); key < 12; key++ {
			w.conns[key]["inode"], w.conns[key]["pid"], w.conns[key]["state"] = 0, 0, finWait1
		}
		w.step(500 * time.Millisecond)
		if r := w.last(waitDelivery); (r.done != 0) != (server == 0) {
			t.Errorf("server %d, closed: %+v", server, r)
		}
	}
}

// A client that has fallen behind sends its next request at once: each answer
// ends a wait, though another has begun by the next reading; and a wait that no
// reading found old enough counts by what it took.
func TestAnswersToAClientThatIsBehind(t *testing.T) {
	w := newWorld(t)
	w.serve(5, 30, 5*time.Millisecond)
	row := w.conns[5]
	w.reports = nil
	for range 5 {
		// It arrives 30 ms before a reading and is answered 90 ms later, 10 ms
		// after the next.
		came := w.now.Add(20 * time.Millisecond)
		row["received_at"], row["bytes_received"] = uint64(came), row["bytes_received"]+100
		w.step(100 * time.Millisecond)
		row["sent_at"], row["bytes_sent"] = uint64(came.Add(90*time.Millisecond)), row["bytes_sent"]+100
	}
	row["received_at"], row["bytes_received"] = uint64(w.now.Add(20*time.Millisecond)), row["bytes_received"]+100
	w.step(50 * time.Millisecond)
	done := 0
	for _, r := range w.reports {
		if r.kind == waitAnswer && r.done != 0 && r.quality >= lonely {
			if took := r.done.Sub(r.began); took != 90*time.Millisecond {
				t.Errorf("an answer took %v", took)
			}
			done++
		}
	}
	if done != 5 {
		t.Errorf("%d answers of 5 were told: %+v", done, w.reports)
	}
}

// One request that takes longer while others are answered is a slow request;
// two at a time are a service that does not answer.
func TestOneSlowRequest(t *testing.T) {
	for name, c := range map[string]struct {
		slow  int
		lasts time.Duration
		stall bool
	}{
		"one": {1, 350 * time.Millisecond, false}, "two": {2, 350 * time.Millisecond, true}, "one for long": {1, 3 * time.Second, false}, "two for long": {2, 1200 * time.Millisecond, true},
	} {
		w := newWorld(t)
		for range 30 {
			w.serve(5, 1, 5*time.Millisecond)
		}
		w.reports = nil
		for i := range c.slow {
			w.request(freezeframe.Key(6+i), map[string]uint64{"bytes_sent": 500, "segs_out": 9, "sent_at": uint64(w.now.Add(-time.Millisecond))})
		}
		for began := w.now; w.now.Sub(began) < c.lasts; {
			w.serve(5, 1, 5*time.Millisecond)
		}
		if q := w.best(waitAnswer); c.stall != (q >= 0.5) {
			t.Errorf("%s: quality %v", name, q)
		}
	}
}

func TestOneSlowRequestAfterAnother(t *testing.T) {
	for apart, stall := range map[time.Duration]bool{300 * time.Millisecond: true, 5 * time.Second: false} {
		w := newWorld(t)
		for range 30 {
			w.serve(5, 1, 5*time.Millisecond)
		}
		w.reports = nil
		for key := range freezeframe.Key(2) {
			w.request(6+key, map[string]uint64{"bytes_sent": 500, "segs_out": 9, "sent_at": uint64(w.now.Add(-time.Millisecond))})
			for began := w.now; w.now.Sub(began) < 300*time.Millisecond; {
				w.serve(5, 1, 5*time.Millisecond)
			}
			delete(w.conns, 6+key)
			for began := w.now; w.now.Sub(began) < apart; {
				w.serve(5, 1, 5*time.Millisecond)
			}
		}
		if q := w.best(waitAnswer); stall != (q >= 0.5) {
			t.Errorf("%v apart: quality %v", apart, q)
		}
	}
}

// Of a service of few answers a missing one proves nothing, unless several new
// clients at a time get none and that was not so for a minute.
func TestAnswersOfAServiceOfFew(t *testing.T) {
	for name, tc := range map[string]struct {
		waiting int
		since   time.Duration
		low     float32
		high    float32
	}{
		"one": {1, 2 * time.Minute, 0, 0.3}, "several at first sight": {5, 0, 0, 0.3}, "several": {5, 2 * time.Minute, 0.6, 0.6},
	} {
		w := newWorld(t)
		w.serve(5, 25, 10*time.Millisecond)
		delete(w.conns, 5)
		w.step(20*time.Second + tc.since)
		if r := w.p.listeners.at(web).rate; r >= inferred {
			t.Fatalf("%s: still %v answers a second", name, r)
		}
		w.reports = nil
		for key := range freezeframe.Key(tc.waiting) {
			w.request(100+key, nil)
		}
		w.step(1500 * time.Millisecond)
		if q := w.best(waitAnswer); q < tc.low || q > tc.high {
			t.Errorf("%s: quality %v", name, q)
		}
	}
}

// A connection that one reading found with its request just read, and that was
// answered and closed by the next, waited for nothing that is worth telling.
func TestClosedBetweenReadings(t *testing.T) {
	w := newWorld(t)
	for range 30 {
		w.serve(5, 1, 5*time.Millisecond)
	}
	w.reports = nil
	for range 10 {
		w.request(6, map[string]uint64{"received_at": uint64(w.now.Add(45 * time.Millisecond)), "bytes_sent": 0, "segs_out": 1})
		w.step(50 * time.Millisecond)
		delete(w.conns, 6)
		w.step(500 * time.Millisecond)
	}
	for _, r := range w.reports {
		if r.kind == waitAnswer {
			t.Fatalf("told: %+v, %v", r, r.done.Sub(r.began))
		}
	}
}

// Our own connection to ourselves is nobody's, though its holder is not known yet.
func TestOwnEcho(t *testing.T) {
	for port, quiet := range map[uint64]bool{4711: true, 4712: false} {
		w := newWorld(t)
		w.p.hub.echoPort.Store(4711)
		w.step(4 * time.Second)
		w.request(5, map[string]uint64{"rqueue": 1, "pid": 0, "comm": 0, "local_port": port})
		w.step(400 * time.Millisecond)
		if q := w.best(waitReceive); quiet != (q == 0) {
			t.Errorf("port %d: quality %v", port, q)
		}
	}
}

func TestConnect(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	w.conns[5] = map[string]uint64{"state": tcpSynSent, "pid": 4321, "comm": 7, "retransmits": 1, "unacked_at": uint64(w.now.Add(-time.Second)), "peer": 99}
	w.step(time.Second)
	r := w.last(waitConnect)
	if r.quality < 0.5 || r.target != 99 || r.seen.Sub(r.began) < 1900*time.Millisecond {
		t.Errorf("%+v, %v after it began", r, r.seen.Sub(r.began))
	}

	// Anybody may connect to what does not answer, but not to what has served,
	// or what listens at just that address.
	for how, served := range map[string]bool{"": false, "connection": true, "listener": true} {
		w = newWorld(t)
		switch how {
		case "connection":
			w.request(6, map[string]uint64{"local": 99})
		case "listener":
			w.listeners[web]["address"] = 99
		}
		w.step(4 * time.Second)
		w.conns[5] = map[string]uint64{"state": tcpSynSent, "pid": 77, "unacked_at": uint64(w.now), "peer": 99}
		w.step(400 * time.Millisecond)
		if q := w.best(waitConnect); served != (q >= 0.5) {
			t.Errorf("%q: quality %v", how, q)
		}
	}
}

// When a connection is made is known by the readings, also where BPF tells of
// requests.
func TestConnectEnds(t *testing.T) {
	w := newWorld(t)
	w.listeners[web]["address"] = 99
	exact := func(d time.Duration) {
		for end := w.now.Add(d); w.now < end; {
			w.p.hub.exactAt.Store(int64(w.now))
			w.step(50 * time.Millisecond)
		}
	}
	exact(4 * time.Second)
	began := w.now
	w.conns[5] = map[string]uint64{"state": tcpSynSent, "pid": 77, "unacked_at": uint64(began), "peer": 99}
	exact(time.Second)
	w.conns[5] = map[string]uint64{"state": tcpEstablished, "pid": 77, "peer": 99, "inode": 3}
	exact(100 * time.Millisecond)
	if r := w.last(waitConnect); r.done < began.Add(950*time.Millisecond) || r.done > began.Add(1050*time.Millisecond) {
		t.Errorf("ended %v after it began, want a second", r.done.Sub(began))
	}
}

// A connection that the server's full queue left half made is sent to in vain;
// alone, a peer that is not heard of may simply have gone.
func TestDeliveryToWhatCannotBeReached(t *testing.T) {
	for _, connecting := range []bool{false, true} {
		w := newWorld(t)
		w.listeners[web]["address"] = 99
		w.step(4 * time.Second)
		if connecting {
			w.conns[5] = map[string]uint64{"state": tcpSynSent, "pid": 77, "unacked_at": uint64(w.now), "peer": 99}
		}
		w.conns[6] = map[string]uint64{"state": tcpEstablished, "pid": 77, "unacked": 1, "retransmits": 1, "unacked_at": uint64(w.now), "peer": 99}
		w.step(time.Second)
		if q := w.best(waitDelivery); connecting != (q >= 0.5) {
			t.Errorf("others cannot connect: %v, quality %v", connecting, q)
		}
	}
}

// Not every reading has every connection: a wait goes on if it comes back.
func TestRowsThatAreNotInEveryReading(t *testing.T) {
	w := newWorld(t)
	w.step(4 * time.Second)
	row := w.request(5, map[string]uint64{"rqueue": 100})
	for range 6 {
		w.conns[5] = row
		w.step(50 * time.Millisecond)
		delete(w.conns, 5)
		w.step(200 * time.Millisecond)
	}
	last := w.now
	for _, r := range w.reports {
		if r.done != 0 {
			t.Fatalf("reported as done while it lasts: %+v", r)
		}
	}
	w.step(time.Second)
	r := w.last(waitReceive)
	if gap := last.Sub(r.done); r.done == 0 || gap > 200*time.Millisecond || gap < 0 {
		t.Errorf("done %v before it was last there", gap)
	}
}

func TestOurOwnSocketsDoNotCount(t *testing.T) {
	w := newWorld(t)
	w.listeners[web]["pid"] = uint64(os.Getpid())
	w.step(4 * time.Second)
	w.listeners[web]["queue"] = 1
	w.request(5, map[string]uint64{"rqueue": 100, "pid": uint64(os.Getpid())})
	w.step(time.Second)
	if len(w.reports) != 0 {
		t.Errorf("%+v", w.reports[0])
	}
}

func TestAnotherOfOurKindIsNoService(t *testing.T) {
	w := newWorld(t)
	const echo freezeframe.Key = 81
	w.listeners[echo] = map[string]uint64{"address": 1081, "pid": uint64(os.Getpid()), "comm": 9}
	w.listeners[web]["comm"] = 9
	w.step(4 * time.Second)
	w.listeners[web]["queue"] = 1
	w.request(5, map[string]uint64{"rqueue": 100, "comm": 9})
	w.step(time.Second)
	if len(w.reports) != 0 {
		t.Errorf("%+v", w.reports[0])
	}
}

func TestObserveFullTablesWithoutAllocating(t *testing.T) {
	w := newWorld(t)
	for i := range freezeframe.Key(maxListeners + 50) {
		w.listeners[1000+i] = map[string]uint64{"queue": 1, "pid": 1}
	}
	for i := range freezeframe.Key(maxConns + 50) {
		w.request(100000+i, map[string]uint64{"rqueue": 1})
	}
	w.step(time.Second)
	lsrc, lt := table(listenerColumns, w.listeners, w.now)
	csrc, ct := table(connectionColumns, w.conns, w.now)
	lsrc.Name, csrc.Name = "listeners", "connections"
	n := testing.AllocsPerRun(20, func() {
		lt.At, ct.At = lt.At.Add(50*time.Millisecond), ct.At.Add(50*time.Millisecond)
		w.p.Observe(lsrc, lt)
		w.p.Observe(csrc, ct)
		for len(w.p.out) > 0 {
			<-w.p.out
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}

func TestMoveToFront(t *testing.T) {
	var list []int32
	for pid := range 40 {
		if next := moveToFront(list, []freezeframe.Victim{{PID: pid + 1}}); next != nil {
			list = next
		}
	}
	if len(list) != watchMost || list[0] != 40 || list[31] != 9 {
		t.Errorf("%v", list)
	}
	if next := moveToFront(list, []freezeframe.Victim{{PID: 20}}); next != nil {
		t.Errorf("changed by a process it has: %v", next)
	}
}

func BenchmarkObserve(b *testing.B) {
	p := newServices(newHub(Options{}))
	listeners := map[freezeframe.Key]map[string]uint64{}
	for i := range freezeframe.Key(30) {
		listeners[1000+i] = map[string]uint64{"pid": 1}
	}
	lsrc, lt := table(listenerColumns, listeners, 1)
	csrc, ct := table(connectionColumns, nil, 1)
	lsrc.Name, csrc.Name = "listeners", "connections"
	b.ReportAllocs()
	for range b.N {
		lt.At, ct.At = lt.At.Add(50*time.Millisecond), ct.At.Add(50*time.Millisecond)
		p.Observe(lsrc, lt)
		p.Observe(csrc, ct)
	}
}
