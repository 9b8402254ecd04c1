package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// Whatever is sent: no panic, no memory for what did not come, the same frames
// however the bytes are split, and what was read can be written again.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(appendFrame(nil, frameRequest, []byte(`{"verb":"status"}`)))
	f.Add(appendFrame(appendFrame(nil, frameData, bytes.Repeat([]byte("x"), 3000)), frameEnd, []byte("{}")))
	f.Add([]byte{0x40, 0, 0, 0, 'Q', 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, split := bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b))
		for {
			kind, payload, err := readFrame(whole)
			kind2, payload2, err2 := readFrame(split)
			if kind != kind2 || !bytes.Equal(payload, payload2) || (err == nil) != (err2 == nil) {
				t.Fatalf("split: %q %d bytes %v; whole: %q %d bytes %v", kind2, len(payload2), err2, kind, len(payload), err)
			}
			if err != nil {
				if _, ok := errors.AsType[malformed](err); !ok && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				return
			}
			if len(payload) > maxFrame || cap(payload) > 2*len(payload)+firstBytes {
				t.Fatalf("%d bytes hold %d", len(payload), cap(payload))
			}
			again := appendFrame(nil, kind, payload)
			if !bytes.Contains(b, again) {
				t.Fatal("another frame than was sent")
			}
		}
	})
}

// A request either cannot be understood, which has a code, or is one that
// makes sense.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `[]`, `{"verb":"status"}`, `{"verb":"list","args":{"since":"2026-01-02T00:00:00Z","cause":"fs.frozen","limit":5}}`,
		`{"verb":"show","args":{"id":"last","form":"json"}}`, `{"verb":"diagnose","args":{"last":true}}`,
		`{"verb":"capture","args":{"last_ns":120000000000}}`, `{"verb":"reload","args":{}}`, `{"verb":"show","args":{"id":"../x","form":"frz"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseRequest(b)
		if err != nil {
			if Code(err) == "" {
				t.Fatalf("an error without a code: %v", err)
			}
			if e := jsonFrame(frameEnd, endingOf(err, nil, 0)); len(e) > maxFrame {
				t.Fatal("an error that does not fit a frame")
			}
			return
		}
		if c.answer == nil || c.verb == "" || c.kind < 0 || c.kind >= kinds {
			t.Fatalf("%q: half a call: %+v", b, c)
		}
		// What the handler gets must make sense; the fake remembers it.
		h := &fake{}
		if _, err := c.answer(t.Context(), h, io.Discard); err != nil && c.verb != verbReload {
			t.Fatal(err)
		}
		switch q := h.last().(type) {
		case ListRequest:
			if q.Limit < 1 || q.Limit > MaxList {
				t.Fatalf("%+v", q)
			}
		case ShowRequest:
			if q.ID == "" || len(q.ID) > MaxID || bytes.ContainsAny([]byte(q.ID), "/\\\x00 ") || q.ID[0] == '.' {
				t.Fatalf("%+v", q)
			}
		case DiagnoseRequest:
			if q.Last == !q.Since.IsZero() {
				t.Fatalf("%+v", q)
			}
		case CaptureRequest:
			if q.Last < 0 || (q.Last > 0) == !q.Since.IsZero() {
				t.Fatalf("%+v", q)
			}
		}
	})
}

func FuzzParseHello(f *testing.F) {
	f.Add([]byte(`{"protocol":"freezeframe.control","min":1,"max":1}`))
	f.Add([]byte(`{"protocol":"freezeframe.control","min":-1,"max":1e9,"refused":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(frameHello, b)
		if err != nil {
			if _, ok := errors.AsType[malformed](err); !ok {
				t.Fatal(err)
			}
			return
		}
		me := hello{Protocol: protocolName, Min: 2, Max: 4, Version: "1"}
		v := common(me, h)
		if v != 0 && (v < h.Min || v > h.Max || v < 2 || v > 4) {
			t.Fatalf("%+v: version %d", h, v)
		}
		if v == 0 {
			text := noCommon(me, h).Text
			if b, err := json.Marshal(text); err != nil || len(b) > 4096 {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
		}
	})
}
