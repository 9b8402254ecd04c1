package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"
)

const (
	// crowdMost is how long the processes and the sockets may take to come and
	// go; what is left of them then is left out, and said.
	crowdMost = 150 * time.Second
	// crowdSettles is how long a diagnose is left alone before its memory is
	// read, and how long many sockets are held.
	crowdSettles = 10 * time.Second
	forkers      = 4
	// socketsEach is how many sockets one process holds: the limit of open files is
	// often 20,000, and one address takes some 28,000 connections.
	socketsEach = 10000
)

// crowd watches the memory of a diagnose while many sockets are open, and while
// many processes come and go: before, the most meanwhile, and after.
func crowd(o options) error {
	diagnose, err := startDiagnose(o.binary, 2*crowdMost+10*crowdSettles)
	if err != nil {
		return err
	}
	defer diagnose.end()
	time.Sleep(crowdSettles)
	before, err := diagnose.rss()
	if err != nil {
		return err
	}
	fmt.Printf("\nresident memory of a diagnose: %.1f MiB before\n", before)
	most := before
	for _, c := range []struct {
		name string
		n    int
		run  func(context.Context, int) (int, error)
	}{{"sockets open", o.sockets, openSockets}, {"processes came and went", o.forks, fork}} {
		if c.n == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), crowdMost)
		peak := make(chan float64)
		go func() { peak <- diagnose.watchRSS(ctx) }()
		did, err := c.run(ctx, c.n)
		cancel()
		meanwhile := <-peak
		if err != nil {
			return err
		}
		time.Sleep(crowdSettles)
		after, err := diagnose.rss()
		if err != nil {
			return fmt.Errorf("diagnose ended: %w: %s", err, diagnose.stderr.String())
		}
		fmt.Printf("%d of %d %s: at most %.1f MiB meanwhile, %.1f MiB %s after, %+.1f MiB\n", did, c.n, c.name, meanwhile, after, crowdSettles, after-before)
		most = max(most, meanwhile, after)
	}
	text, ok := verdict(most, budgetRSS)
	fmt.Printf("resident MiB: %s\n", text)
	if !ok {
		return errors.New("resident memory is over its budget")
	}
	return nil
}

// watchRSS returns the most resident memory, in MiB, until ctx ends.
func (c *child) watchRSS(ctx context.Context) (most float64) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		if m, err := c.rss(); err == nil { // one that ended is noticed after
			most = max(most, m)
		}
		select {
		case <-ctx.Done():
			return most
		case <-ticker.C:
		}
	}
}

// fork starts n processes, a few at a time, and waits for each.
func fork(ctx context.Context, n int) (int, error) {
	path, err := exec.LookPath("true")
	if err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	counts := make([]int, forkers)
	errs := make([]error, forkers)
	for i := range forkers {
		wg.Go(func() {
			for counts[i] < n/forkers && ctx.Err() == nil {
				if errs[i] = exec.Command(path).Run(); errs[i] != nil {
					return
				}
				counts[i]++
			}
		})
	}
	wg.Wait()
	did := 0
	for _, c := range counts {
		did += c
	}
	return did, errors.Join(errs...)
}

// openSockets has n sockets open for a while, in as many processes as the limit
// of open files wants.
func openSockets(ctx context.Context, n int) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	did := 0
	var holders []*child
	defer func() {
		for _, h := range holders {
			h.end()
		}
	}()
	for did < n && ctx.Err() == nil {
		some := min(socketsEach, n-did)
		h, err := startReady("holder of sockets", self, "-role", "sockets", "-sockets", strconv.Itoa(some))
		if err != nil {
			return did, err
		}
		holders = append(holders, h)
		did += some
	}
	select {
	case <-ctx.Done():
	case <-time.After(crowdSettles):
	}
	return did, nil
}

// holdSockets opens n sockets, both ends of n/2 loopback connections, and holds
// them until it is ended. They leave no trace then (SO_LINGER).
func holdSockets(n int) error {
	time.AfterFunc(crowdMost, func() { os.Exit(1) }) // nobody waits for longer
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	open := make([]net.Conn, 0, n+1)
	for len(open) < n {
		ours, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			return fmt.Errorf("open socket %d: %w", len(open), err)
		}
		theirs, err := l.Accept()
		if err != nil {
			return fmt.Errorf("open socket %d: %w", len(open), err)
		}
		for _, c := range []net.Conn{ours, theirs} {
			if tcp, ok := c.(*net.TCPConn); ok {
				if err := tcp.SetLinger(0); err != nil { // else it stays in TIME_WAIT for a minute
					return err
				}
			}
			open = append(open, c)
		}
	}
	fmt.Println("ready")
	time.Sleep(crowdMost)
	runtime.KeepAlive(open)
	return nil
}
