package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The kinds of frames.
const (
	frameHello   = 'H' // hello: the first of each side
	frameRequest = 'Q' // request: from the client
	frameData    = 'D' // bytes of the answer
	frameEnd     = 'E' // ending: the answer is complete, or why it is not
)

const (
	// maxFrame is the largest payload either side takes.
	maxFrame = 64 << 10
	// headerBytes is the length of the payload, big endian, and the kind.
	headerBytes = 5
	// firstBytes is what a frame's payload gets before any of it has come.
	firstBytes = 1 << 10
)

// malformed is a frame that is none of this protocol: nothing after it can be
// understood either.
type malformed struct{ text string }

func (m malformed) Error() string { return m.text }

// readFrame reads one frame. The payload's memory grows as its bytes come, so
// that a length alone costs nothing. Errors: io.EOF between two frames,
// io.ErrUnexpectedEOF in one, malformed.
func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [headerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind = head[4]
	length := binary.BigEndian.Uint32(head[:])
	switch {
	case kind != frameHello && kind != frameRequest && kind != frameData && kind != frameEnd:
		return 0, nil, malformed{fmt.Sprintf("a frame of the unknown kind %q", kind)}
	case length > maxFrame:
		return 0, nil, malformed{fmt.Sprintf("a frame of %d bytes, where %d are the most", length, maxFrame)}
	}
	payload = make([]byte, 0, min(length, firstBytes))
	for uint32(len(payload)) < length {
		if len(payload) == cap(payload) {
			more := make([]byte, len(payload), min(int(length), 2*cap(payload)))
			copy(more, payload)
			payload = more
		}
		n, err := r.Read(payload[len(payload):cap(payload)])
		payload = payload[:len(payload)+n]
		if err != nil && uint32(len(payload)) < length {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	return kind, payload, nil
}

// appendFrame appends a frame to b.
func appendFrame(b []byte, kind byte, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, kind), payload...)
}
