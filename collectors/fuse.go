package collectors

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	fuseWaiting = iota
	fusePoint
	fusePID
	fuseComm
	fuseWaitingKnown
	fusePIDSure
	fuseFstype
	fuseWidth
)

const maxFuse = 64

// fuse reads how many requests each FUSE connection has waiting
// (/sys/fs/fuse/connections/N/waiting, in the fusectl filesystem), and who
// serves it.
type fuse struct {
	file   // of mountinfo
	owners *owners
	using  bool
	lives  bool
	texts  freezeframe.Texts
	raw    []byte
	conns  string
	needs  []freezeframe.Need
	path   []byte
	small  []byte
	mounts int                 // of FUSE, at the last reading
	asked  freezeframe.Instant // when the daemons were last searched for
	wait   time.Duration       // until that may be done again
}

func (c *fuse) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "fuse", From: "/sys/fs/fuse/connections", Key: "connection",
		Every: 250 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Slow,
		Columns: []freezeframe.Column{
			fuseWaiting:      {Name: "waiting", Kind: gauge},
			fusePoint:        {Name: "mountpoint", Kind: text},
			fusePID:          {Name: "pid", Kind: gauge},
			fuseComm:         {Name: "comm", Kind: text},
			fuseWaitingKnown: {Name: "waiting_known", Kind: gauge}, // 0: fusectl is not mounted
			// How sure the pid is: 2 the kernel says so, 1 it is the only one or
			// its name is the filesystem's, 0 a guess, or none was found.
			fusePIDSure: {Name: "pid_sure", Kind: gauge},
			fuseFstype:  {Name: "fstype", Kind: text},
		},
		Needs: c.needs,
	}
}

func (c *fuse) Open(h freezeframe.Host) (err error) {
	c.texts, c.needs, c.lives = h.Texts, nil, h.Proc == "/proc"
	c.path, c.small = make([]byte, 0, 4096), make([]byte, 64)
	c.conns = filepath.Join(h.Sys, "fs/fuse/connections")
	c.asked, c.wait = 0, time.Second
	if c.file, err = open(filepath.Join(h.Proc, "self/mountinfo"), 32<<10); err != nil {
		return err
	}
	if c.raw, err = c.slowLines(); err != nil {
		c.file.Close()
		return err
	}
	if !bytes.Contains(c.raw, []byte(" - fusectl ")) {
		_, err := os.Stat(c.conns)
		if err == nil {
			err = errors.New("not mounted")
		}
		c.needs = append(c.needs, freezeframe.Need{
			What: "read /sys/fs/fuse/connections/*/waiting",
			Lost: "how many requests a FUSE daemon has not answered",
			Fix:  "mount -t fusectl fusectl /sys/fs/fuse/connections",
			Err:  errnoText(err),
		})
	}
	c.owners.start(h)
	c.using = true
	return nil
}

func (c *fuse) Close() error {
	if c.using {
		c.owners.end()
		c.using = false
	}
	return c.file.Close()
}

// Rest is long while there is no FUSE mount.
func (c *fuse) Rest() time.Duration {
	if c.mounts == 0 {
		return time.Second
	}
	return 0
}

func (c *fuse) Collect(t *freezeframe.Table) (err error) {
	if !c.lives || c.Changed() {
		if c.raw, err = c.slowLines(); err != nil {
			return err
		}
		c.wait = time.Second
	}
	var m mountLine
	for lines := kernel.Scan(c.raw); nextMount(&lines, &m) && len(t.Keys) < maxFuse; {
		if !isFuse(m.fstype) {
			continue
		}
		connection := m.dev & (1<<20 - 1)
		if hasKey(t, freezeframe.Key(connection)) {
			continue // a bind mount of the same
		}
		row := t.Row(freezeframe.Key(connection), fuseWidth)
		c.path = appendUnescaped(c.path[:0], m.point)
		row[fusePoint] = c.texts.Intern(c.path)
		row[fuseFstype] = c.texts.Intern(m.fstype)

		c.path = append(append(c.path[:0], c.conns...), '/')
		c.path = append(strconv.AppendUint(c.path, connection, 10), "/waiting\x00"...)
		// Not by pread: these files have no offsets.
		if n, err := kernel.SlowReadAt(kernel.AtCWD, c.path, c.small); err == nil {
			row[fuseWaiting], _ = kernel.Uint(firstWord(c.small[:n]))
			row[fuseWaitingKnown] = 1
		}
		daemon, sure := daemonOf(*c.owners.daemons.Load(), &m, c.raw)
		if daemon == nil {
			c.search()
			continue
		}
		row[fusePID] = uint64(daemon.pid)
		row[fuseComm] = c.texts.Intern(daemon.comm)
		row[fusePIDSure] = sure
	}
	c.mounts = len(t.Keys)
	return nil
}

// search asks for a walk over the processes, ever more rarely while it finds
// nothing.
func (c *fuse) search() {
	now := kernel.Now()
	if now.Sub(c.asked) < c.wait {
		return
	}
	c.asked = now
	c.wait = min(2*c.wait, time.Minute)
	c.owners.walkSoon.Store(true)
}

// daemonOf returns who serves a mount, and how sure that is (see pid_sure).
func daemonOf(daemons []fuseDaemon, m *mountLine, mountinfo []byte) (*fuseDaemon, uint64) {
	connection := uint32(m.dev & (1<<20 - 1))
	var named, only *fuseDaemon
	_, subtype, _ := bytes.Cut(m.fstype, []byte{'.'})
	left := 0
	for i := range daemons {
		d := &daemons[i]
		if d.connection == connection && connection != 0 {
			return d, 2
		}
		if d.connection != 0 {
			continue // it serves another one
		}
		if only == nil || only.pid != d.pid {
			left++
			only = d
		}
		// comm is cut to 15 bytes.
		if len(subtype) > 0 && len(d.comm) > 0 && bytes.HasPrefix(subtype, d.comm) && named == nil {
			named = d
		}
	}
	switch {
	case named != nil:
		return named, 1
	case left == 1 && fuseMounts(mountinfo) == 1:
		return only, 1
	}
	return only, 0
}

// fuseMounts counts the FUSE connections that are mounted.
func fuseMounts(mountinfo []byte) int {
	n := 0
	var last uint64
	var m mountLine
	for lines := kernel.Scan(mountinfo); nextMount(&lines, &m); {
		if isFuse(m.fstype) && m.dev != last {
			n++
			last = m.dev
		}
	}
	return n
}
