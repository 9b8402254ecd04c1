package recorder

import (
	"context"
	"time"

	"freezeframe"
)

// BoxOptions says where the black box lies and how much it may take. Zero
// values mean the defaults.
type BoxOptions struct {
	Dir       string        // made when missing, with mode 0750
	Bytes     int64         // most bytes of all segments; default 1 GiB
	Age       time.Duration // oldest reading kept; default 14 days
	FreeFloor int64         // bytes that must stay free on the filesystem; below, nothing is written; 0: none
	Sync      time.Duration // how often what was recorded is on the disk; default 3 s, at most 5 s
	Full      time.Duration // how long everything is kept at the full rate before it is thinned; default 15 min
}

// Unclean says that the run before ended without saying so: a crash, a kill, a
// reset, a power cut.
type Unclean struct {
	SameBoot  bool          // the machine did not restart: freezeframe alone was killed
	BootID    string        // of that run; "" when it is not known
	Last      time.Time     // wall time of its last reading on disk; zero when there is none
	Recording *Recording    // its last minutes, nil when there is nothing; Stalls: the one that was open, if any
	Missing   time.Duration // how long it wrote after Last, where that is known
}

// BoxGap is a time of which the black box holds nothing, or not all, because
// the disk did not take it in time.
type BoxGap struct {
	Lane   freezeframe.Lane
	Span   freezeframe.Span
	Events int // that were lost; of a gap in events, Span is empty and Lane 0
}

// BoxStats says how the black box is doing.
type BoxStats struct {
	Bytes          int64         // of all segments
	Segments       int           // files
	Oldest, Newest time.Time     // wall time of the first and last reading on disk; zero: none
	Lag            time.Duration // since what was recorded was last on the disk
	Err            string        // why nothing is being written now; ""
	Errors         uint64        // failed attempts
	Written        uint64        // bytes written by flushing
	Thinned        uint64        // bytes written by thinning
	Gaps           []BoxGap      // the newest 64
	GapCount       uint64
}

// Box is the recording on disk that survives the machine: segments that are
// appended every few seconds, thinned when they get old and removed when there
// are too many.
type Box struct{}

// OpenBox opens the black box and says whether the run before ended cleanly.
func OpenBox(o BoxOptions) (*Box, *Unclean, error) { return &Box{}, nil, nil }

// Run writes what the ring holds until ctx ends. It is for a goroutine of its
// own: the disk may hold it up for an hour. open returns the stall that is open
// now, or nil; it may be nil itself.
func (b *Box) Run(ctx context.Context, r *Ring, open func() *freezeframe.Stall) {}

// Keep exempts a span of this run from thinning: a stall and what surrounds
// it.
func (b *Box) Keep(span freezeframe.Span) {}

// Close ends the run cleanly. It waits a few seconds for Run, whose ctx must
// have ended.
func (b *Box) Close() error { return nil }

// Pin returns what is on disk between two moments of wall time, one recording
// for each run in them, the oldest first.
func (b *Box) Pin(start, end time.Time) ([]*Recording, error) { return nil, nil }

// Stats never waits for the disk.
func (b *Box) Stats() BoxStats { return BoxStats{} }

// Needs says why nothing is written, or could not be for a time.
func (b *Box) Needs() []freezeframe.Need { return nil }
