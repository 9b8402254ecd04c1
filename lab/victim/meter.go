package victim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Meter is a client that measures its own waits to the microsecond, and is all
// the traffic that a service has, so that no request waits unmeasured. Each of
// its threads has one request at a time: on a connection that stays, every 50
// to 150 ms, or on a new one for each, every 100 to 300 ms (50 to 150 where
// there are no others), which counts from the connect. It tells the waits (Intended is Sent) when told to "report".
//
// Its arguments: -stay N -fresh N -seed N ADDRESS. The threads wait in plain
// blocking calls; memory is locked, and whoever starts it gives it real-time
// priority, so that its own scheduling does not add to what it measures.
func Meter(args []string) {
	flags := flag.NewFlagSet("meter", flag.ExitOnError)
	stay := flags.Int("stay", 3, "")
	fresh := flags.Int("fresh", 2, "")
	seed := flags.Uint64("seed", 1, "")
	_ = flags.Parse(args)
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(*stay + *fresh + 2)
	m := &meter{address: flags.Arg(0), mixed: *stay > 0, waits: make([][]Wait, *stay+*fresh)}
	for i := range m.waits {
		m.waits[i] = make([]Wait, 0, 1<<14) // half an hour
	}
	locked := ""
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
		locked = "cannot lock its memory: " + err.Error()
	}
	fmt.Println("ready", locked)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "go":
			for i := range m.waits {
				m.wg.Go(func() { m.ask(i, i >= *stay, rand.New(rand.NewPCG(*seed, uint64(i)))) })
			}
		case "report":
			m.stop.Store(true)
			m.wg.Wait()
			all := []Wait{}
			for _, w := range m.waits {
				all = append(all, w...)
			}
			if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return
		}
	}
}

type meter struct {
	address string
	mixed   bool // there are connections that stay
	stop    atomic.Bool
	wg      sync.WaitGroup
	waits   [][]Wait // each thread has its own
}

func (m *meter) ask(i int, fresh bool, random *rand.Rand) {
	runtime.LockOSThread()
	c := Client{Address: m.address}
	rest, spread := 50*time.Millisecond, 100*time.Millisecond
	if fresh && m.mixed {
		rest, spread = 2*rest, 2*spread
	}
	for !m.stop.Load() {
		sleepThread(now() + int64(rest) + random.Int64N(int64(spread)))
		sent := now()
		err := c.Get("/", !fresh)
		w := Wait{Intended: sent, Sent: sent, Done: now(), Fresh: fresh, Err: text(err)}
		m.waits[i] = append(m.waits[i], w)
	}
	c.Close()
}

// Client asks a service for one thing at a time, by plain blocking calls.
type Client struct {
	Address string

	open bool
	fd   int
	buf  [4096]byte
}

var (
	requestStays  = "GET %s HTTP/1.1\r\nHost: lab\r\nConnection: keep-alive\r\n\r\n"
	requestCloses = "GET %s HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
	okBody        = []byte("ok\n")
)

// Get asks for path and waits for the whole answer, which has to end in "ok".
func (c *Client) Get(path string, stay bool) error {
	request := requestStays
	if !stay {
		request = requestCloses
	}
	err := c.get([]byte(fmt.Sprintf(request, path)))
	if err != nil || !stay {
		c.Close()
	}
	return err
}

func (c *Client) get(request []byte) error {
	if !c.open {
		fd, to, err := Socket(c.Address)
		if err != nil {
			return err
		}
		c.fd, c.open = fd, true
		limit := unix.NsecToTimeval(int64(patience))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
			return err
		}
		if err := again(func() error { return unix.Connect(fd, to) }); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	if _, err := unix.Write(c.fd, request); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for n := 0; ; {
		got, err := unix.Read(c.fd, c.buf[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case got == 0:
			return errors.New("closed without an answer")
		}
		n += got
		if head, body, complete := bytes.Cut(c.buf[:n], endOfHead); complete && bytes.Contains(body, okBody) {
			if !bytes.HasPrefix(head, []byte("HTTP/1.1 200")) {
				return fmt.Errorf("answer %q", bytes.SplitN(head, []byte("\r\n"), 2)[0])
			}
			return nil
		}
		if n == len(c.buf) {
			return errors.New("the answer is too long")
		}
	}
}

// Close closes the connection, if there is one.
func (c *Client) Close() {
	if c.open {
		_ = unix.Close(c.fd)
		c.open = false
	}
}
