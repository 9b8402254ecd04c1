package victim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Wait is one request as its user saw it, in CLOCK_MONOTONIC nanoseconds.
type Wait struct {
	Intended int64  `json:"i"` // when the user wanted it
	Sent     int64  `json:"s"` // when it was sent: later, if its connection was busy with the one before
	Done     int64  `json:"d"` // when the answer was there, or was given up
	Fresh    bool   `json:"f,omitempty"`
	Err      string `json:"e,omitempty"`
}

// Users asks a service for something every 20 ms on average until it is told
// to report: three connections that stay, each every 60 ms and one after the
// other, and a new connection every 100 ms that waits for no one (with -fresh,
// only those, every 40 ms). Each wait counts from when the request was due, so
// that requests that a stalled connection could not even send count as well.
func Users(args []string) {
	debug.SetGCPercent(-1) // it lives for seconds, and its pauses would be measured
	fresh := args[0] == "-fresh"
	address := args[len(args)-1]
	u := &users{address: address, stop: make(chan struct{}), open: map[int64]Wait{}}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "go":
			start := now() + int64(20*time.Millisecond)
			if fresh {
				go u.newConnections(start, 40*time.Millisecond)
				break
			}
			for i := range int64(3) {
				go u.connection(start+i*int64(20*time.Millisecond), 60*time.Millisecond)
			}
			go u.newConnections(start+int64(10*time.Millisecond), 100*time.Millisecond)
		case "report":
			close(u.stop)
			if err := json.NewEncoder(os.Stdout).Encode(u.report()); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return
		}
	}
}

type users struct {
	address string
	stop    chan struct{}
	mu      sync.Mutex
	waits   []Wait
	open    map[int64]Wait // what has no answer yet, by when it was intended
}

func (u *users) began(intended int64, fresh bool) Wait {
	w := Wait{Intended: intended, Sent: now(), Fresh: fresh}
	u.mu.Lock()
	u.open[intended] = w
	u.mu.Unlock()
	return w
}

func (u *users) ended(w Wait, err error) {
	w.Done, w.Err = now(), text(err)
	u.mu.Lock()
	delete(u.open, w.Intended)
	u.waits = append(u.waits, w)
	u.mu.Unlock()
}

func (u *users) report() []Wait {
	u.mu.Lock()
	defer u.mu.Unlock()
	end := now() // what has no answer yet has waited so long
	for _, w := range u.open {
		w.Done = end
		u.waits = append(u.waits, w)
	}
	return u.waits
}

// patience is longer than any fault lasts.
const patience = 20 * time.Second

func (u *users) connection(at int64, every time.Duration) {
	var conn net.Conn
	var r *bufio.Reader
	for ; ; at += int64(every) {
		if u.sleep(at) {
			return
		}
		w := u.began(at, false)
		err := func() (err error) {
			if conn == nil {
				if conn, err = net.DialTimeout("tcp", u.address, patience); err != nil {
					return err
				}
				r = bufio.NewReader(conn)
			}
			return ask(conn, r, true)
		}()
		if err != nil && conn != nil {
			conn.Close()
			conn = nil
		}
		u.ended(w, err)
	}
}

func (u *users) newConnections(at int64, every time.Duration) {
	for ; ; at += int64(every) {
		if u.sleep(at) {
			return
		}
		w := u.began(at, true)
		go func() {
			conn, err := net.DialTimeout("tcp", u.address, patience)
			if err == nil {
				err = ask(conn, bufio.NewReader(conn), false)
				conn.Close()
			}
			u.ended(w, err)
		}()
	}
}

func (u *users) sleep(until int64) (stopped bool) {
	select {
	case <-u.stop:
		return true
	case <-time.After(time.Duration(until - now())):
		return false
	}
}

func ask(conn net.Conn, r *bufio.Reader, keep bool) error {
	connection := "keep-alive"
	if !keep {
		connection = "close"
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: lab\r\nConnection: %s\r\n\r\n", connection); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status + ": " + strings.TrimSpace(string(body)))
	}
	return err
}

func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // this clock is always there
	return ts.Nano()
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
