package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"freezeframe/lab/vm/machine"
	"freezeframe/recorder"
)

// image is the disk of a machine as it was at a moment under load: what a power
// cut would have left, without the boot after it.
type image struct {
	path  string
	words []word
	cutAt time.Time // by the machine's clock
}

// diskImages pauses a machine at random moments, copies its disk, and reads the
// black box from each copy as the next start would.
func diskImages(ctx context.Context, m *machine.Machine, job machine.Job, n, slow int, random *rand.Rand) (ok bool, err error) {
	if os.Geteuid() != 0 {
		return false, errors.New("images of the disk are mounted, which needs root")
	}
	once, dir, err := withDisk(ctx, m)
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	said := &hearing{}
	job.Command = fmt.Sprintf("exec %s inside load -slow %d -first", selfName, slow)
	job.Stdout, job.Console = said, filepath.Join(job.Results, "console-images.log")
	results := make(chan error, 1)
	job.Ask = func(h *machine.Host, words []string) error {
		if len(words) != 1 || words[0] != "armed" {
			return h.Do(words)
		}
		go func() {
			defer h.CutAfter(0)
			ok = true
			for i := range n {
				time.Sleep(5*time.Second + time.Duration(random.Int64N(int64(15*time.Second))))
				c := image{path: filepath.Join(dir, "image")}
				err := h.Paused(func() error {
					at := time.Now()
					words, last := said.all()
					c.words, c.cutAt = words, cut(last, at)
					return machine.CopyDisk(ctx, once.Disk, c.path)
				})
				if err != nil {
					results <- err
					return
				}
				fine, err := c.judge(ctx, i+1)
				if err != nil {
					results <- fmt.Errorf("image %d: %w", i+1, err)
					return
				}
				ok = ok && fine
			}
			results <- nil
		}()
		return nil
	}
	res, err := once.Run(ctx, job)
	if err != nil {
		return false, err
	}
	if res.Cut.IsZero() {
		return false, fmt.Errorf("it did not come up (it ended with %d)", res.Code)
	}
	return ok, <-results
}

// judge reads the black box from the image and prints what it lacks.
func (c *image) judge(ctx context.Context, number int) (ok bool, err error) {
	at := c.path + ".mount"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return false, err
	}
	// Mounting it replays the journal, as a boot does.
	if out, err := exec.CommandContext(ctx, "mount", "-o", "loop", c.path, at).CombinedOutput(); err != nil {
		return false, fmt.Errorf("mount it: %w: %s", err, out)
	}
	defer func() {
		if out, e := exec.Command("umount", at).CombinedOutput(); e != nil {
			err = errors.Join(err, fmt.Errorf("unmount it: %w: %s", e, out))
		}
	}()
	box := filepath.Join(at, "var/lib/freezeframe/box")
	var after word
	if after.Closed, err = segments(box); err != nil {
		return false, err
	}
	b, unclean, err := recorder.OpenBox(recorder.BoxOptions{Dir: box})
	if err != nil {
		return false, err
	}
	after.Oldest = b.Stats().Oldest
	if err := b.Close(); err != nil {
		return false, err
	}
	was := c.words[len(c.words)-1]
	after.Ends = was.Ends
	if unclean != nil {
		after.Ends, after.Last = was.Ends+1, unclean.Last
	}
	missing, faults := lost(c.words, c.cutAt, after)
	verdict := "ok"
	if len(faults) > 0 {
		verdict = "FAILED: " + strings.Join(faults, "; ")
	}
	fmt.Printf("image %-2d  %.1f s missing (%.1f s after it was last asked: then its disk was %.1f s behind), %d segments kept  %s\n",
		number, missing.Seconds(), c.cutAt.Sub(was.Now).Seconds(), was.Now.Sub(was.Newest).Seconds(), len(was.Closed), verdict)
	return len(faults) == 0, nil
}
