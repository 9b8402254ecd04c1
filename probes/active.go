package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// EventActive is a request of the active probe that was late or answered with
// a server error: attributes target, status, connect_us, tls_us, first_byte_us
// (each since the request began; empty when it did not get so far).
const EventActive = "active"

const (
	activeEvery    = 250 * time.Millisecond
	activeFloor    = 200 * time.Millisecond
	activeTimeout  = time.Minute
	activeLearning = 3 * time.Second
	// activeFirst is the floor while nothing is known of the service.
	activeFirst = 500 * time.Millisecond
)

// active sends a request to one configured service four times a second, over a
// fresh connection, as a user would. It is late when the user would wait, and
// Err is set when the user would get an error at once.
type active struct {
	hub    *hub
	owners *serviceOwners
	target string
	http   bool
	every  time.Duration // 0: activeEvery
}

func (p *active) Name() string { return "active " + p.target }

// asked is how one request went.
type asked struct {
	err                     error
	status                  int
	connect, tls, firstByte freezeframe.Instant // 0: it did not get so far
}

// Run sends requests until ctx ends. The error says what is wrong with the
// configured address.
func (p *active) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	ask, err := p.asker()
	if err != nil {
		return err
	}
	every := p.every
	if every == 0 {
		every = activeEvery
	}
	var usual baseline
	began := kernel.Now()
	due := began
	good := false
	var told freezeframe.Instant
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Duration(due - kernel.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		l := freezeframe.Lateness{Probe: "active", Target: p.target, Began: due, Usual: usual.usual(), Floor: activeFloor, Quality: 1}
		if kernel.Now().Sub(began) < activeLearning {
			l.Floor = activeFirst
		}
		result := p.wait(ctx, ask, &l, late)
		if ctx.Err() != nil {
			return nil
		}
		now := kernel.Now()
		l.Done, l.Seen = now, now
		took := l.Late()
		switch {
		case result.err != nil:
			l.Err = failure(result.err)
			if now.Sub(told) >= time.Second {
				told = now
				p.hub.event(refused(now, "active", p.target, l.Err))
				if good { // a service that was down before we came is no news
					p.hub.suspect(now)
					p.report(l, late)
				}
			}
		default:
			good = true
			if took > l.Floor/2 || result.status >= 500 {
				p.hub.event(result.event(p.target, due, now))
			}
			if took > l.Floor/2 {
				p.report(l, late)
			}
			usual.learn(int64(took), int64(l.Floor))
		}
		for due = due.Add(every); due < now; due = due.Add(every) {
		}
	}
}

// wait asks and, while the answer is missing, reports that.
func (p *active) wait(ctx context.Context, ask func(context.Context) asked, l *freezeframe.Lateness, late func(freezeframe.Lateness)) asked {
	ctx, cancel := context.WithTimeout(ctx, activeTimeout)
	defer cancel()
	done := make(chan asked, 1)
	go func() { done <- ask(ctx) }()
	slow := time.NewTimer(100 * time.Millisecond)
	defer slow.Stop()
	for {
		select {
		case result := <-done:
			return result
		case <-slow.C:
			slow.Reset(100 * time.Millisecond)
			l.Seen = kernel.Now()
			p.hub.suspect(l.Seen)
			if l.Late() > l.Floor/2 {
				p.report(*l, late)
			}
		}
	}
}

func (p *active) report(l freezeframe.Lateness, late func(freezeframe.Lateness)) {
	l.Victims = p.owners.of(p.address())
	late(l)
}

// address is host:port of the target.
func (p *active) address() string {
	if !p.http {
		return p.target
	}
	u, err := url.Parse(p.target)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// asker returns what sends one request.
func (p *active) asker() (func(context.Context) asked, error) {
	dialer := &net.Dialer{KeepAlive: -1}
	if !p.http {
		if _, port, err := net.SplitHostPort(p.target); err != nil {
			return nil, fmt.Errorf("tcp address %q: %w (give host:port)", p.target, err)
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, fmt.Errorf("tcp address %q: port %q is not a number from 0 to 65535", p.target, port)
		}
		return func(ctx context.Context) (a asked) {
			conn, err := dialer.DialContext(ctx, "tcp", p.target)
			if err != nil {
				a.err = err
				return a
			}
			a.connect = kernel.Now()
			a.err = conn.Close()
			return a
		}, nil
	}
	u, err := url.Parse(p.target)
	if err != nil {
		return nil, fmt.Errorf("url %q: %w", p.target, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("url %q: not an http:// or https:// address", p.target)
	}
	client := &http.Client{
		// No proxy, no kept connection, no redirect: what is timed is the
		// service that was named.
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	return func(ctx context.Context) (a asked) {
		var connect, shake, first freezeframe.Instant
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			ConnectDone:          func(string, string, error) { connect = kernel.Now() },
			TLSHandshakeDone:     func(tls.ConnectionState, error) { shake = kernel.Now() },
			GotFirstResponseByte: func() { first = kernel.Now() },
		})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.target, nil)
		if err != nil {
			a.err = err
			return a
		}
		req.Header.Set("User-Agent", "freezeframe")
		resp, err := client.Do(req)
		if err != nil {
			a.err = err
			return a
		}
		defer resp.Body.Close()
		a.status = resp.StatusCode
		_, a.err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		a.connect, a.tls, a.firstByte = connect, shake, first
		return a
	}, nil
}

func (a *asked) event(target string, began, now freezeframe.Instant) freezeframe.Event {
	since := func(at freezeframe.Instant) string {
		if at == 0 {
			return ""
		}
		return strconv.FormatInt(at.Sub(began).Microseconds(), 10)
	}
	status := ""
	if a.status != 0 {
		status = strconv.Itoa(a.status)
	}
	return freezeframe.Event{Kind: EventActive, At: began, End: now,
		Text: fmt.Sprintf("%s answered after %v %s", target, now.Sub(began).Round(time.Millisecond), status),
		Attrs: []freezeframe.Attr{
			{Name: "target", Value: target},
			{Name: "status", Value: status},
			{Name: "connect_us", Value: since(a.connect)},
			{Name: "tls_us", Value: since(a.tls)},
			{Name: "first_byte_us", Value: since(a.firstByte)},
		}}
}

// failure is an error as a symptom: the kernel's name of it where there is one.
func failure(err error) string {
	var errno syscall.Errno
	var dns *net.DNSError
	switch {
	case errors.As(err, &errno):
		return errnoName(errno)
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &dns):
		return "name not resolved"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed without an answer"
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return err.Error()
}

// isLocal tells whether an address as a listener has it accepts connections to
// host, a literal address or localhost.
func isLocal(listener, host string) bool {
	at, err := netip.ParseAddrPort(listener)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return at.Addr().IsUnspecified() || at.Addr().IsLoopback()
	}
	to, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if at.Addr().IsUnspecified() {
		// Bound to all addresses of this host; is this one of them?
		return to.IsLoopback() || ownAddress(to)
	}
	return at.Addr() == to.Unmap()
}

func ownAddress(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, have := range addrs {
		if prefix, err := netip.ParsePrefix(have.String()); err == nil && prefix.Addr() == a.Unmap() {
			return true
		}
	}
	return false
}
