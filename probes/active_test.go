package probes

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"freezeframe"
)

func TestActiveHTTP(t *testing.T) {
	var slow atomic.Bool
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() {
			<-release
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var c collected
	owners := &serviceOwners{}
	owners.set(strings.TrimPrefix(server.URL, "http://"), []freezeframe.Victim{{PID: 77, Comm: "web"}})
	p := &active{hub: newHub(Options{Events: c.event, Focus: &freezeframe.Focus{}}), owners: owners, target: server.URL, http: true, every: 20 * time.Millisecond}
	ended := make(chan error)
	go func() { ended <- p.Run(ctx, c.add) }()
	time.Sleep(300 * time.Millisecond)
	slow.Store(true)
	in := c.until(t, "in flight", func(l freezeframe.Lateness) bool { return l.Done == 0 && l.Late() > 700*time.Millisecond })
	slow.Store(false)
	close(release)
	done := c.until(t, "done", func(l freezeframe.Lateness) bool { return l.Done != 0 && l.Began == in.Began })
	if in.Probe != "active" || in.Target != server.URL || len(in.Victims) != 1 || in.Victims[0].PID != 77 || done.Err != "" {
		t.Errorf("%+v, then %+v", in, done)
	}
	found := false
	c.Lock()
	for _, e := range c.events {
		if e.Kind == EventActive && e.At == in.Began {
			found = e.Attr("status") == "502" && e.Attr("connect_us") != "" && e.Attr("first_byte_us") != ""
		}
	}
	c.Unlock()
	if !found {
		t.Errorf("no event of the slow answer: %+v", c.events)
	}
	server.Close()
	refused := c.until(t, "refused", func(l freezeframe.Lateness) bool { return l.Err != "" })
	if refused.Err != "ECONNREFUSED" && refused.Err != "ECONNRESET" && refused.Err != "connection closed without an answer" {
		t.Errorf("%+v", refused)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestActiveTCPThatWasDownBefore(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var c collected
	p := &active{hub: newHub(Options{Events: c.event}), owners: &serviceOwners{}, target: address, every: 20 * time.Millisecond}
	ended := make(chan error)
	go func() { ended <- p.Run(ctx, c.add) }()
	for i := 0; ; i++ {
		c.Lock()
		n := len(c.events)
		c.Unlock()
		if n > 0 {
			break
		}
		if i > 1000 {
			t.Fatal("no event of a refused connection")
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-ended
	if len(c.late) != 0 || c.events[0].Attr("errno") != "ECONNREFUSED" {
		t.Errorf("%+v %+v", c.late, c.events[0])
	}
}

func TestActiveAddressesThatAreWrong(t *testing.T) {
	for _, p := range []active{
		{target: "ftp://x/", http: true}, {target: "localhost:80", http: true}, {target: "http://", http: true}, {target: "http://%zz", http: true},
		{target: "localhost"}, {target: "localhost:http"}, {target: "localhost:70000"}, {target: ""},
	} {
		p.hub, p.owners = newHub(Options{}), &serviceOwners{}
		err := p.Run(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), p.target) {
			t.Errorf("%q: %v", p.target, err)
		}
	}
}

func TestServiceOwners(t *testing.T) {
	var o serviceOwners
	o.set("0.0.0.0:80", []freezeframe.Victim{{PID: 1}})
	o.set("[::]:443", []freezeframe.Victim{{PID: 2}})
	o.set("10.1.2.3:5432", []freezeframe.Victim{{PID: 3}})
	o.set("unix:/run/x", []freezeframe.Victim{{PID: 4}})
	for address, want := range map[string]int{
		"127.0.0.1:80": 1, "localhost:443": 2, "[::1]:443": 2, "10.1.2.3:5432": 3,
		"127.0.0.1:5432": 0, "192.0.2.1:80": 0, "localhost:81": 0, "example.org:80": 0, "nonsense": 0,
	} {
		pid := 0
		if v := o.of(address); len(v) > 0 {
			pid = v[0].PID
		}
		if pid != want {
			t.Errorf("%s is served by %d, want %d", address, pid, want)
		}
	}
}

func TestActiveFailureNames(t *testing.T) {
	_, err := os.Open("/does/not/exist")
	if got := failure(err); got != "ENOENT" {
		t.Error(got)
	}
	if got := failure(&net.DNSError{Err: "no such host"}); got != "name not resolved" {
		t.Error(got)
	}
	if got := failure(context.DeadlineExceeded); got != "timeout" {
		t.Error(got)
	}
}
