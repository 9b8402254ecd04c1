package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/internal/config"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// configIn is the default configuration in a directory of the test's own.
func configIn(t *testing.T, dir string) config.Config {
	t.Helper()
	c, err := config.Load(config.Sources{Environ: []string{"FREEZEFRAME_DAEMON_STATE_DIR=" + dir, "FREEZEFRAME_BOX_FREE_FLOOR_BYTES=0"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testStorage(t *testing.T, dir string) *storage {
	s := newStorage(configIn(t, dir), zerolog.Nop())
	s.open = func() *freezeframe.Stall { return nil }
	s.found = func(*recorder.Unclean) {}
	s.ready = func([]reports.Incident) {}
	return s
}

// With a disk that takes nothing, reports wait in bounded memory, and what is
// left out is counted.
func TestQueueIsBounded(t *testing.T) {
	s := testStorage(t, t.TempDir())
	i := &detectors.Incident{Recording: &recorder.Recording{}}
	for n := range maxQueued + 7 {
		s.add(freezeframe.Report{ID: fmt.Sprint(n)}, i)
	}
	if s.lost.Load() != 7 || len(s.queue) != maxQueued || s.held.Load() != maxHeld {
		t.Errorf("%d lost, %d queued, %d recordings held", s.lost.Load(), len(s.queue), s.held.Load())
	}
	for n := range maxQueued {
		k := <-s.queue
		if (k.incident != nil) != (n < maxHeld) {
			t.Fatalf("report %d has its recording: %v", n, k.incident != nil)
		}
		if n >= maxHeld && len(k.report.NotSeen) != 1 {
			t.Fatalf("report %d does not say that its recording is missing", n)
		}
	}
}

func TestTheStateDirectoryHasOneDaemon(t *testing.T) {
	dir := t.TempDir()
	first, second := testStorage(t, dir), testStorage(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go first.run(ctx)
	if err := <-first.first; err != nil {
		t.Fatal(err)
	}
	go second.run(ctx)
	if err := <-second.first; !errors.Is(err, errInUse) || !fatal(err) {
		t.Errorf("a second daemon: %v", err)
	}
	cancel()
	<-first.done
	<-second.done
	third := testStorage(t, dir)
	if err := third.claim(); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
	if _, err := third.lock.Write([]byte("x")); !errors.Is(err, syscall.EBADF) {
		t.Errorf("the lock is open for writing, which keeps its filesystem from being made read-only: %v", err)
	}
}

func TestStateDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := testStorage(t, filepath.Join(file, "state"))
	if err := s.claim(); !fatal(err) {
		t.Errorf("below a file: %v", err)
	}
	link := filepath.Join(t.TempDir(), "lock")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	s = testStorage(t, filepath.Dir(link))
	if err := s.claim(); !fatal(err) {
		t.Errorf("a lock that is a link: %v", err)
	}
}

// The black box goes on with another ring, and with another configuration; each
// run of it is ended in order.
func TestBlackBoxIsOpenedAnew(t *testing.T) {
	dir := t.TempDir()
	s := testStorage(t, dir)
	s.found = func(*recorder.Unclean) { t.Error("an unclean end") }
	ctx, cancel := context.WithCancel(context.Background())
	go s.run(ctx)
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	ring := recorder.NewRing(recorder.MinBytes)
	s.follow(ring)
	wait("the black box", func() bool { return s.box.Load() != nil })
	first := s.box.Load()
	s.follow(ring) // the same again changes nothing
	s.follow(recorder.NewRing(recorder.MinBytes))
	wait("another run", func() bool { return s.box.Load() != first })
	second := s.box.Load()
	c := configIn(t, dir)
	c.Box.Bytes *= 2
	s.reconfigure(c)
	wait("another configuration", func() bool { return s.box.Load() != second })
	cancel()
	<-s.done
	again := testStorage(t, dir)
	again.found = func(*recorder.Unclean) { t.Error("the end was not clean") }
	if err := again.openBox(); err != nil {
		t.Fatal(err)
	}
	if err := again.box.Load().Close(); err != nil {
		t.Error(err)
	}
}

// A verdict that takes for ever costs its report: the recording is ended in order
// all the same, and the next start does not take this end for an unclean one.
func TestStopDoesNotWaitForVerdicts(t *testing.T) {
	dir := t.TempDir()
	d := &daemon{log: zerolog.Nop(), ending: make(chan struct{}), store: testStorage(t, dir), end: func() {}}
	d.notify = newNotifier(zerolog.Nop())
	defer d.notify.close()
	d.without.set(time.Now()) // there is no watch to stop
	d.judging.Add(1)
	ctx, stopStoring := context.WithCancel(context.Background())
	go d.store.run(ctx)
	if err := <-d.store.first; err != nil {
		t.Fatal(err)
	}
	d.store.follow(recorder.NewRing(recorder.MinBytes))
	for end := time.Now().Add(30 * time.Second); d.store.box.Load() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the black box is not opened")
		}
	}
	d.stop(stopStoring)
	select {
	case <-d.store.done:
	default:
		t.Error("the recording was not ended")
	}
	again := testStorage(t, dir)
	again.found = func(*recorder.Unclean) { t.Error("the end was not clean") }
	if err := again.openBox(); err != nil {
		t.Fatal(err)
	}
	if err := again.box.Load().Close(); err != nil {
		t.Error(err)
	}
}
