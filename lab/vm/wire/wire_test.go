package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFramesComeBackAsTheyWere(t *testing.T) {
	var pipe bytes.Buffer
	e := NewEncoder(&pipe)
	long := bytes.Repeat([]byte("0123456789"), MaxFrame/5) // two frames
	for _, err := range []error{
		e.SendJSON(KindHello, Hello{Kernel: "6.1"}),
		e.Send(KindStdout, []byte("out")),
		e.Send(KindStdout, nil), // nothing to say is no frame
		e.Send(KindResults, long),
		e.SendJSON(KindExit, Exit{Code: 3}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := map[Kind]string{}
	frames := 0
	d := NewDecoder(&pipe)
	for {
		kind, data, err := d.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[kind] += string(data)
		frames++
	}
	if frames != 5 || got[KindStdout] != "out" || got[KindResults] != string(long) || !strings.Contains(got[KindExit], `"code":3`) {
		t.Errorf("%d frames: %q", frames, got)
	}
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"no such kind": {"?\x00\x00\x00\x01a", nil},
		"empty":        {"o\x00\x00\x00\x00", nil},
		"too long":     {"o\x00\x01\x00\x01", nil},
		"cut off":      {"o\x00\x00\x00\x09abc", io.ErrUnexpectedEOF},
		"cut header":   {"o\x00", io.ErrUnexpectedEOF},
		"no data":      {"o\x00\x00\x00\x01", io.ErrUnexpectedEOF},
		"nothing":      {"", io.EOF},
	} {
		_, _, err := NewDecoder(strings.NewReader(c.in)).Next()
		if err == nil || c.want != nil && !errors.Is(err, c.want) || c.want == nil && errors.Is(err, io.EOF) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
}
