package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe/internal/kernel"
)

// session is one client that may ask. One goroutine reads what it sends, and
// another answers the one request that it may have at a time; so it is noticed
// when a client goes that waits.
type session struct {
	s    *server
	c    net.Conn
	peer kernel.Peer
	busy atomic.Bool // a request is being answered
}

func newSession(s *server, c net.Conn, p kernel.Peer) *session {
	return &session{s: s, c: c, peer: p}
}

// run returns when the client is gone or turned away, though a call of the
// handler may still hang.
func (n *session) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer n.c.Close()
	stopped := context.AfterFunc(ctx, func() {
		n.expectBy(time.Unix(1, 0)) // ends the read below
		time.AfterFunc(farewell, func() { n.c.Close() })
	})
	defer stopped()
	if !n.handshake() {
		return
	}
	n.expectBy(time.Now().Add(n.s.o.Idle))
	var last *answer
	for {
		kind, payload, err := readFrame(n.c)
		if err == nil && kind != frameRequest {
			err = malformed{fmt.Sprintf("a frame of kind %q, where a request (%q) was due", kind, frameRequest)}
		}
		if err == nil && ctx.Err() == nil && !n.busy.CompareAndSwap(false, true) {
			err = malformed{"a request before the answer to the last one was complete"}
		}
		switch {
		case ctx.Err() != nil:
			if last == nil || last.over.Load() {
				n.turnAway(&Error{CodeStopping, "the daemon is stopping"})
			} else {
				<-last.told // or its connection was closed
			}
			return
		case errors.Is(err, io.EOF) && !n.busy.Load():
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && !n.busy.Load():
			return // it asked for nothing more
		case err != nil:
			n.broken(err)
			return
		}
		n.expectBy(time.Time{})
		c, err := parseRequest(payload)
		if err == nil && c.rootOnly && n.peer.UID != 0 {
			err = Errorf(CodeRootOnly, "only root may ask the daemon for %s: use sudo", c.verb)
		}
		last = newAnswer(n)
		if err == nil {
			go n.answer(ctx, c, last)
		} else if !last.finish(err, nil) {
			return
		}
	}
}

// farewell is how long a client gets to hear that the daemon stops.
const farewell = time.Second

// handshake tells whether the client talks a version that we do. Ours were
// said when it was admitted.
func (n *session) handshake() bool {
	n.expectBy(time.Now().Add(n.s.o.Handshake))
	kind, payload, err := readFrame(n.c)
	var client hello
	if err == nil {
		client, err = parseHello(kind, payload)
	}
	if err != nil {
		n.broken(err)
		return false
	}
	if daemon := n.s.greeting(); common(daemon, client) == 0 {
		n.turnAway(noCommon(daemon, client))
		return false
	}
	return true
}

func (n *session) expectBy(t time.Time) { _ = n.c.SetReadDeadline(t) } // fails only when the read will

// broken ends a conversation that went wrong, and says why to whom it concerns.
func (n *session) broken(err error) {
	n.s.o.Counters.Broken.Add(1)
	if m, ok := errors.AsType[malformed](err); ok {
		n.s.sayPeer(&n.peer, err, "a client sent what is no request")
		if !n.busy.Load() {
			n.turnAway(&Error{CodeMalformed, "the daemon got " + m.text})
		}
	}
}

// turnAway ends a conversation in which nothing is being answered.
func (n *session) turnAway(e *Error) {
	_ = n.c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = n.c.Write(jsonFrame(frameEnd, endingOf(e, nil, 0))) // it is gone, or will see that the connection ends
}

// answer runs one request, within the time and the room there is for it.
func (n *session) answer(ctx context.Context, c call, a *answer) {
	o := &n.s.o
	ctx, cancel := context.WithTimeout(ctx, o.Whole)
	defer cancel()
	// What the client is told does not depend on whether the handler comes back.
	stopped := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			a.abort(&Error{CodeTimeout, fmt.Sprintf("the answer was not complete after %s", o.Whole)})
		} else {
			a.abort(&Error{CodeStopping, "the daemon is stopping"})
		}
	})
	defer stopped()
	gate := n.s.work[c.kind]
	waiting, enough := context.WithTimeout(ctx, o.Room)
	ok := gate.enter(waiting, n.peer.UID)
	enough()
	if !ok {
		o.Counters.Busy.Add(1)
		a.finish(&Error{CodeBusy, fmt.Sprintf("the daemon is answering others, and has not got to this for %s: try again", o.Room)}, nil)
		return
	}
	defer gate.leave(n.peer.UID)
	late := time.AfterFunc(o.Answer, func() {
		if a.untouched(&Error{CodeTimeout, fmt.Sprintf("the daemon found no answer within %s: perhaps it waits for a disk; freezeframe status answers all the same", o.Answer)}) {
			cancel()
		}
	})
	defer late.Stop()

	notes, err := n.call(ctx, c, a)
	if a.finish(err, notes) && err == nil {
		o.Counters.Answered.Add(1)
	}
}

// call is the handler's part. A fault in it must not take the recorder down.
func (n *session) call(ctx context.Context, c call, w io.Writer) (notes []string, err error) {
	defer func() {
		if p := recover(); p != nil {
			n.s.o.Log.Error().Str("verb", c.verb).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("a request made the daemon fail")
			notes, err = nil, Errorf(CodeFailed, "the daemon failed on this request: its log (journalctl -u freezeframe) says where")
		}
	}()
	notes, err = c.answer(ctx, n.s.h, w)
	if c.verb == verbReload && err == nil {
		n.s.findGroup()
	}
	return notes, err
}

// answer is what a handler writes to. It goes out in frames, so that what is
// in memory of an answer is one of them, and ends once.
type answer struct {
	n    *session
	over atomic.Bool   // the client has its answer, or is gone
	told chan struct{} // closed when over

	mu    sync.Mutex
	frame []byte // of the data frame that is being filled, its header included
	bytes int64  // of data, sent or in the frame
	sent  bool   // a frame went out
	err   error  // the client is gone, or does not read
}

// chunk is how much data goes into one frame.
const chunk = 32 << 10

// errOver is for a handler that still writes when the client was told already
// that there is no answer.
var errOver = errors.New("the client does not wait for this answer any more")

func newAnswer(n *session) *answer { return &answer{n: n, told: make(chan struct{})} }

// Write takes bytes of the answer, as fast as the client reads them.
func (a *answer) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	written := 0
	for len(p) > 0 {
		if a.over.Load() {
			return written, errOver
		}
		if a.err != nil {
			return written, a.err
		}
		if a.frame == nil {
			a.frame = make([]byte, headerBytes, headerBytes+chunk)
		}
		m := min(len(p), headerBytes+chunk-len(a.frame))
		a.frame = append(a.frame, p[:m]...)
		a.bytes += int64(m)
		written, p = written+m, p[m:]
		if len(a.frame) == headerBytes+chunk {
			a.flush()
		}
	}
	return written, a.err
}

// flush sends the frame; a.err is why it could not.
func (a *answer) flush() {
	if len(a.frame) <= headerBytes || a.err != nil {
		return
	}
	binary.BigEndian.PutUint32(a.frame, uint32(len(a.frame)-headerBytes))
	a.frame[4] = frameData
	a.send(a.frame)
	a.frame = a.frame[:headerBytes]
}

func (a *answer) send(frame []byte) {
	_ = a.n.c.SetWriteDeadline(time.Now().Add(a.n.s.o.Stall)) // fails only when the write will
	a.sent = true
	if _, err := a.n.c.Write(frame); err != nil {
		a.err = fmt.Errorf("send the answer: %w", err)
		// Half a frame is out: nothing can follow it.
		a.n.c.Close()
	}
}

// finish ends the answer, unless it is over. It tells whether the client got
// it.
func (a *answer) finish(err error, notes []string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.end(err, notes)
}

func (a *answer) end(err error, notes []string) bool {
	if a.over.Load() {
		return false
	}
	if err == nil || a.sent {
		a.flush()
	} else {
		a.bytes = 0 // nothing of it went out, and nobody wants its beginning
	}
	a.frame = nil
	defer close(a.told)
	a.over.Store(true)
	if a.err != nil {
		return false
	}
	// Before the client hears that it may ask again.
	a.n.expectBy(time.Now().Add(a.n.s.o.Idle))
	a.n.busy.Store(false)
	a.send(jsonFrame(frameEnd, endingOf(err, notes, a.bytes)))
	return a.err == nil
}

// untouched ends the answer if none of it went out yet.
func (a *answer) untouched(e *Error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.sent && a.end(e, nil)
}

// abort ends the answer wherever it is: by an ending where one can still be
// sent, else by the end of the connection.
func (a *answer) abort(e *Error) {
	if a.over.Load() {
		return
	}
	if a.mu.TryLock() {
		defer a.mu.Unlock()
		a.end(e, nil)
		return
	}
	a.n.c.Close() // somebody waits in a write, whom this ends
}
