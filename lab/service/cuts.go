package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"freezeframe/lab/service/checks"
	"freezeframe/lab/vm/machine"
	"freezeframe/lab/vm/wire"
)

const aboutCuts = "the power goes at random moments under load: every boot comes up, reports the end, lacks 5 s at most, and has every segment that was synced"

// mostMissing is how much recording a power cut may cost.
const mostMissing = 5 * time.Second

// tickEvery is how often a machine says what time it is, so that the moment of
// the cut is known by its own clock, which need not run as fast as the host's.
const tickEvery = 200 * time.Millisecond

// closedFor is how long a segment must not have grown to count as closed.
const closedFor = 10 * time.Second

// word is what the machine says of itself, a line of JSON each: while it is
// loaded, and once after it booted again.
type word struct {
	Now    time.Time        `json:"now"` // by the machine's clock
	Oldest time.Time        `json:"oldest"`
	Newest time.Time        `json:"newest"`
	Closed map[string]int64 `json:"closed"` // size of each segment that is written no more
	// Ends is how many unclean ends were reported so far, Last when the newest was,
	// Stall when the stall ended that its report tells of.
	Ends  int       `json:"ends"`
	Last  time.Time `json:"last"`
	Stall time.Time `json:"stall"`
	Up    bool      `json:"up"` // the first word of a boot: the service runs, and has reported
	// Witness, in the first word of a boot, is when the disk last took a few bytes
	// of somebody else, who had it sync them twice a second.
	Witness time.Time `json:"witness"`
	// Tick: it only says what time it is, several times a second.
	Tick bool `json:"tick,omitempty"`

	heard time.Time // by the host's clock
}

// load brings the service up, says what it is like, and gives the disk and the
// CPUs something to do until the power goes.
func load(m *checks.Machine, first bool) error {
	if first {
		if err := m.All("dpkg --force-unsafe-io --install " + m.Deb); err != nil {
			return err
		}
	}
	if err := m.Until(60*time.Second, m.Active); err != nil {
		return err
	}
	if err := m.Samples(); err != nil {
		return err
	}
	w := word{Up: true}
	if !first {
		if err := w.readWitness(witness); err != nil {
			return err
		}
		// Its report takes a moment: recording comes first.
		if err := m.Until(60*time.Second, func() error {
			ends, err := m.UncleanEnds()
			if err != nil {
				return err
			}
			w.Ends = len(ends)
			for _, r := range ends {
				if at, _ := r.UncleanEnd(); at.After(w.Last) {
					w.Last, w.Stall = at, r.Stall.End
				}
			}
			if w.Ends == 0 {
				return errors.New("no report of an unclean end")
			}
			return nil
		}); err != nil {
			return err
		}
	}
	say := func() error {
		s, err := m.Status()
		if err != nil {
			return err
		}
		w.Oldest, w.Newest = s.Box.Oldest, s.Box.Newest
		if w.Closed, err = closed(); err != nil {
			return err
		}
		w.Now = time.Now()
		line, err := json.Marshal(w)
		if err != nil {
			return err
		}
		_, err = fmt.Println(string(line))
		w.Up = false
		return err
	}
	if err := m.Until(60*time.Second, say); err != nil {
		return err
	}
	go func() {
		for { // until the power goes
			line, err := json.Marshal(word{Now: time.Now(), Tick: true})
			if err != nil {
				return // the cut's moment cannot be told then
			}
			fmt.Println(string(line))
			time.Sleep(tickEvery)
		}
	}()
	go func() {
		for { // until the power goes
			if err := stamp(witness, time.Now()); err != nil {
				fmt.Fprintf(os.Stderr, "no witness: %v\n", err)
				return // the time of the cut counts then
			}
			time.Sleep(stampEvery)
		}
	}()
	fmt.Println(wire.Ask + "armed")
	for _, line := range []string{
		"while :; do dd if=/dev/urandom of=/var/tmp/load bs=64k count=64 conv=fsync 2>/dev/null; sync; done",
		"while :; do find /usr -name nothing-of-the-kind; done",
	} {
		go m.Sh("%s", line) // until the power goes
	}
	for {
		time.Sleep(700 * time.Millisecond)
		if err := m.Until(60*time.Second, say); err != nil {
			return err
		}
	}
}

// witness is on the filesystem that holds the black box.
const (
	witness    = "/var/tmp/witness"
	stampEvery = 500 * time.Millisecond
)

// stamp writes a moment over the one before, and has it on the disk.
func stamp(path string, at time.Time) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(at.UTC().Format(stampLayout)), 0); err != nil {
		return err
	}
	return f.Sync()
}

const stampLayout = "2006-01-02T15:04:05.000000000Z"

func (w *word) readWitness(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	w.Witness, err = time.Parse(stampLayout, string(text))
	return err
}

// segments returns the files of the black box in dir, with their sizes.
func segments(dir string) (map[string]int64, error) {
	return filesIn(dir, func(fs.FileInfo) bool { return true })
}

// closed returns the segments that have not grown for a while.
func closed() (map[string]int64, error) {
	return filesIn("/var/lib/freezeframe/box", func(i fs.FileInfo) bool { return i.Size() > 4096 && time.Since(i.ModTime()) > closedFor })
}

func filesIn(dir string, which func(fs.FileInfo) bool) (map[string]int64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.Mode().IsRegular() && which(info) {
			sizes[f.Name()] = info.Size()
		}
	}
	return sizes, nil
}

// hearing collects the machine's words.
type hearing struct {
	mu    sync.Mutex
	line  []byte
	words []word
	last  word // a tick, too
}

func (h *hearing) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, part := range bytes.SplitAfter(p, []byte("\n")) {
		h.line = append(h.line, part...)
		if !bytes.HasSuffix(h.line, []byte("\n")) {
			continue
		}
		w := word{heard: time.Now()}
		if err := json.Unmarshal(h.line, &w); err == nil {
			if h.last = w; !w.Tick {
				h.words = append(h.words, w)
			}
		} else {
			fmt.Printf("  it says: %s", h.line)
		}
		h.line = h.line[:0]
	}
	return len(p), nil
}

// all returns what was heard, and the last of it; call it when the machine is
// gone.
func (h *hearing) all() (words []word, last word) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.words, h.last
}

// keepWords leaves them with the results, for whoever wants to know more.
func keepWords(path string, words []word) error {
	text, err := json.MarshalIndent(words, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// cut is the moment of a power cut by the machine's own clock, by what it said
// last: no more time can have passed there than here.
func cut(last word, at time.Time) time.Time { return last.Now.Add(at.Sub(last.heard)) }

// behind is the most by which the disk was behind whenever the machine was asked.
func behind(words []word) (most time.Duration) {
	for _, w := range words {
		most = max(most, w.Now.Sub(w.Newest))
	}
	return most
}

// lost says what a boot lacks of what was there before the cut.
func lost(before []word, cutAt time.Time, after word) (missing time.Duration, faults []string) {
	was := before[len(before)-1]
	missing = cutAt.Sub(after.Last)
	if missing > mostMissing {
		text := fmt.Sprintf("%.1f s of recording are missing", missing.Seconds())
		if idle := cutAt.Sub(after.Witness); !after.Witness.IsZero() && idle > stampEvery*4 {
			// Nobody's data came to the disk: the emulated disk stood still.
			text += fmt.Sprintf("; the disk took nothing of anybody for %.1f s of them", idle.Seconds())
		}
		faults = append(faults, text)
	}
	if after.Last.Before(was.Newest.Add(-time.Second)) {
		faults = append(faults, fmt.Sprintf("a reading of %s was on the disk, the end is reported at %s", was.Newest.Format("15:04:05.0"), after.Last.Format("15:04:05.0")))
	}
	if after.Ends != was.Ends+1 {
		faults = append(faults, fmt.Sprintf("%d unclean ends are reported, before %d", after.Ends, was.Ends))
	}
	if after.Oldest.After(was.Oldest) {
		faults = append(faults, fmt.Sprintf("the oldest reading is of %s, before of %s", after.Oldest, was.Oldest))
	}
	for name, size := range was.Closed {
		if now, ok := after.Closed[name]; !ok || now < size {
			faults = append(faults, fmt.Sprintf("segment %s had %d bytes, and has %d", name, size, now))
		}
	}
	return missing, faults
}

// withDisk returns the machine with a disk of its own, which stays from boot to
// boot, and the directory that holds it.
func withDisk(ctx context.Context, m *machine.Machine) (once machine.Machine, dir string, err error) {
	if dir, err = machine.Scratch(); err != nil {
		return once, "", err
	}
	once = *m
	once.Disk = filepath.Join(dir, "root.img")
	if err := m.CopyRoot(ctx, once.Disk); err != nil {
		return once, "", errors.Join(err, os.RemoveAll(dir))
	}
	return once, dir, nil
}

// powerCuts boots a machine whose disk stays again and again, each time until
// its power goes.
func powerCuts(ctx context.Context, m *machine.Machine, job machine.Job, n, slow int, random *rand.Rand) (ok bool, err error) {
	once, dir, err := withDisk(ctx, m)
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	ok = true
	var before []word
	var cutAt time.Time
	for i := range n + 1 {
		said := &hearing{}
		flags := ""
		if i == 0 {
			flags = " -first"
		}
		job.Command = fmt.Sprintf("exec %s inside load -slow %d%s", selfName, slow, flags)
		job.Stdout, job.Console = said, filepath.Join(job.Results, fmt.Sprintf("console-%d.log", i))
		wait := time.Duration(0) // the last boot is only looked at
		if i < n {
			wait = 15*time.Second + time.Duration(random.Int64N(int64(30*time.Second)))
		}
		job.Ask = func(h *machine.Host, words []string) error {
			if len(words) != 1 || words[0] != "armed" {
				return h.Do(words)
			}
			h.CutAfter(wait)
			return nil
		}
		res, err := once.Run(ctx, job)
		if err != nil {
			return false, fmt.Errorf("boot %d: %w", i, err)
		}
		words, last := said.all()
		if err := keepWords(filepath.Join(job.Results, fmt.Sprintf("words-%d.json", i)), words); err != nil {
			return false, err
		}
		if res.Cut.IsZero() || len(words) == 0 {
			return false, fmt.Errorf("boot %d: it did not come up to be cut (it ended with %d)", i, res.Code)
		}
		if i > 0 {
			missing, faults := lost(before, cutAt, words[0])
			verdict := "ok"
			if len(faults) > 0 {
				verdict, ok = "FAILED: "+strings.Join(faults, "; "), false
			}
			was := before[len(before)-1]
			fmt.Printf("power-cut %-2d  %.1f s missing (its disk was at most %.1f s behind, asked %d times), a stall was over %.1f s before, %d segments kept, up again after %.0f s  %s\n",
				i, missing.Seconds(), behind(before).Seconds(), len(before), words[0].Last.Sub(words[0].Stall).Seconds(), len(was.Closed), res.Boot.Seconds(), verdict)
		}
		before, cutAt = words, cut(last, res.Cut)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return ok, nil
}
