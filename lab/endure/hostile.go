package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"freezeframe/lab"

	"golang.org/x/sys/unix"
)

// insiders is how many connections root's own hostile clients have: of the places
// that are root's some are for those who ask.
const insiders = 6

var hostileClients = condition{
	name: "hostile", about: "clients of the control socket: 1,000 connections, garbage, messages of 1 GB, slow readers, silence",
	make: func(t *trial) (step, end func()) {
		strangers, root := t.hostile(t.rates.connections, t.User()), t.hostile(insiders, 0)
		return nil, func() {
			t.disperse(strangers)
			t.disperse(root)
		}
	},
	after: func(t *trial) {
		turned := func(why string) float64 {
			return t.m.counted(`freezeframe_control_turned_away_total{why="` + why + `"}`)
		}
		t.note("it answered %.0f requests, and turned away %.0f strangers, %.0f that were too many, %.0f that made no sense or were too slow",
			t.m.counted("freezeframe_control_requests_total"), turned("refused"), turned("busy"), turned("broken"))
		if turned("refused") == 0 || turned("broken") == 0 {
			t.wrong("the hostile clients did not get to it")
		}
	},
}

// hostile starts clients that mean no good, as a user.
func (t *trial) hostile(connections, uid int) *lab.Proc {
	args := []string{"-connections", strconv.Itoa(connections)}
	if uid == 0 {
		args = append(args, "-inside")
	}
	p := t.Start(lab.Cmd{Name: "hostile", Role: "hostile", Args: append(args, t.d.socket()), Place: lab.Place{UID: uid}})
	t.Check(p.Say("go"))
	return p
}

// disperse ends them, and notes what they did.
func (t *trial) disperse(p *lab.Proc) {
	answer, err := p.Ask("end", 20*time.Second)
	t.Check(err)
	var did harm
	t.Check(json.Unmarshal([]byte(answer), &did))
	t.Check(p.Kill())
	who := "strangers"
	if did.Inside {
		who = "root's hostile clients"
	}
	t.note("%s connected %d times (%d at once at most), were refused %d times, %d times there was no room in the queue; sent %d MiB, of one message at most %d KiB; read %d KiB slowly",
		who, did.Connected, did.Most, did.Refused, did.Full, did.Sent>>20, did.Largest>>10, did.Read>>10)
}

// harm is what hostile clients did.
type harm struct {
	Inside    bool
	Connected int64
	Most      int64 // connections at once
	Refused   int64
	Full      int64 // the queue of the socket was
	Sent      int64 // bytes
	Largest   int64 // bytes of one message that were taken
	Read      int64 // bytes, slowly
}

// villain is the clients of one process.
type villain struct {
	socket                                          string
	open, most, connected, refused, full, sent, red atomic.Int64
	largest                                         atomic.Int64
}

// hostile is clients that mean no good, from "go" to "end": [-inside]
// [-connections N] SOCKET.
func hostile(args []string) {
	f := flag.NewFlagSet("hostile", flag.ExitOnError)
	many := f.Int("connections", 1000, "")
	inside := f.Bool("inside", false, "")
	_ = f.Parse(args) // it exits
	v := &villain{socket: f.Arg(0)}
	lab.Listen("", func(line string) {
		if line == "go" {
			v.begin(*many, *inside)
			return
		}
		text, err := json.Marshal(harm{
			Inside: *inside, Connected: v.connected.Load(), Most: v.most.Load(), Refused: v.refused.Load(), Full: v.full.Load(),
			Sent: v.sent.Load(), Largest: v.largest.Load(), Read: v.red.Load(),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(string(text))
	})
}

// begin starts the clients; they go on until the process ends.
func (v *villain) begin(many int, inside bool) {
	kinds := []func(net.Conn){v.garbage, v.huge, v.huger, v.silent, v.drip, v.slow}
	for i := range many {
		do := v.hold
		if i < 2*len(kinds) {
			do = kinds[i%len(kinds)]
		}
		go func() {
			time.Sleep(time.Duration(rand.Int64N(int64(3 * time.Second)))) // not all in one moment
			for {
				v.once(do)
				time.Sleep(time.Second)
			}
		}()
	}
}

// once connects and does its worst.
func (v *villain) once(do func(net.Conn)) {
	c, err := net.Dial("unix", v.socket)
	if errors.Is(err, unix.EAGAIN) {
		v.full.Add(1)
		return
	}
	if err != nil {
		return // the daemon is being killed, perhaps
	}
	defer c.Close()
	v.connected.Add(1)
	n := v.open.Add(1)
	defer v.open.Add(-1)
	for {
		most := v.most.Load()
		if n <= most || v.most.CompareAndSwap(most, n) {
			break
		}
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a connection that is closed has none, and fails
	do(c)
}

// frame is a header of the protocol: the length of what follows, and its kind.
func frame(kind byte, length uint32) []byte {
	return append(binary.BigEndian.AppendUint32(nil, length), kind)
}

const (
	hello   = `{"protocol":"freezeframe.control","min":1,"max":1,"version":"hostile"}`
	request = `{"verb":"capture","args":{"last_ns":60000000000}}`
)

func (v *villain) write(c net.Conn, b []byte) error {
	n, err := c.Write(b)
	v.sent.Add(int64(n))
	return err
}

// greeted says hello, and reads the daemon's; false: it was refused.
func (v *villain) greeted(c net.Conn) bool {
	_ = v.write(c, append(frame('H', uint32(len(hello))), hello...)) // whoever refuses may be gone: its hello is there
	head := make([]byte, 5)
	if _, err := io.ReadFull(c, head); err != nil {
		return false
	}
	body := make([]byte, min(binary.BigEndian.Uint32(head), 1<<16))
	if _, err := io.ReadFull(c, body); err != nil {
		return false
	}
	var h struct{ Refused any }
	if json.Unmarshal(body, &h) != nil || h.Refused != nil {
		v.refused.Add(1)
		return false
	}
	return true
}

// hold keeps its half of the connection, whatever the daemon does.
func (v *villain) hold(c net.Conn) {
	v.greeted(c)
	time.Sleep(2 * time.Second)
}

// garbage is no protocol at all.
func (v *villain) garbage(c net.Conn) {
	b := make([]byte, 64<<10)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	for v.write(c, b) == nil {
	}
}

// huge sends a hello of 1 GB.
func (v *villain) huge(c net.Conn) { v.message(c, 'H') }

// huger says hello as it should, and sends a request of 1 GB.
func (v *villain) huger(c net.Conn) {
	if v.greeted(c) {
		v.message(c, 'Q')
	}
}

func (v *villain) message(c net.Conn, kind byte) {
	const size = 1 << 30
	if v.write(c, frame(kind, size)) != nil {
		return
	}
	b := make([]byte, 64<<10)
	for taken := int64(0); taken < size; {
		n, err := c.Write(b)
		v.sent.Add(int64(n))
		taken += int64(n)
		for {
			most := v.largest.Load()
			if taken <= most || v.largest.CompareAndSwap(most, taken) {
				break
			}
		}
		if err != nil {
			return
		}
	}
}

// silent says nothing, and listens.
func (v *villain) silent(c net.Conn) {
	_, _ = io.Copy(io.Discard, c) // until it is closed
}

// drip says hello a byte at a time.
func (v *villain) drip(c net.Conn) {
	for _, b := range append(frame('H', uint32(len(hello))), hello...) {
		if v.write(c, []byte{b}) != nil {
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// slow asks for much and reads it a few bytes at a time.
func (v *villain) slow(c net.Conn) {
	if !v.greeted(c) {
		return
	}
	if v.write(c, append(frame('Q', uint32(len(request))), request...)) != nil {
		return
	}
	b := make([]byte, 64)
	for {
		n, err := c.Read(b)
		v.red.Add(int64(n))
		if err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
