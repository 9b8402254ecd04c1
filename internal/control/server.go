package control

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// Options bound what clients can cost. What is zero gets its default.
type Options struct {
	// Version of this binary, told to clients.
	Version string
	// Group may read; default DefaultGroup. Where the machine has no such
	// group, only root may.
	Group string
	// Connections is the most at a time, of all users; a quarter of them is
	// kept for root. Default 64.
	Connections int
	// PerUser is the most connections of one user other than root; default 16.
	PerUser int
	// Handshake is how long a client may take to say its versions; default 5 s.
	Handshake time.Duration
	// Idle is how long a client may take from one request to the next; default 30 s.
	Idle time.Duration
	// Answer is how long the handler may take until the first byte, and Stall
	// how long a client may take to read one frame; defaults 60 s and 10 s.
	Answer, Stall time.Duration
	// Whole is the longest that one answer may take until its last byte;
	// default 5 min.
	Whole time.Duration
	// Log gets a line about clients that were turned away, at most one a second.
	Log zerolog.Logger
	// Counters, where it is not nil, counts for the daemon's metrics.
	Counters *Counters
}

// Counters count since the server began.
type Counters struct {
	Open     atomic.Int64 // connections now
	Answered atomic.Uint64
	Refused  atomic.Uint64 // neither root nor in the group
	Busy     atomic.Uint64 // turned away because of a bound
	Broken   atomic.Uint64 // garbage, too slow, gone in the middle
}

// Listen makes the socket file, with a mode that lets everyone connect: who
// may ask is decided by Serve. A file that a daemon left behind is replaced;
// one on which a daemon answers is an error. Closing removes the file.
func Listen(path string) (net.Listener, error) {
	return nil, errors.New("not built yet")
}

// Serve answers clients of l, a Unix stream socket of Listen or of systemd,
// until ctx ends or l fails. It closes l, ends what is being answered, and
// returns nil when ctx was the reason.
func Serve(ctx context.Context, l net.Listener, h Handler, o Options) error {
	return errors.New("not built yet")
}
