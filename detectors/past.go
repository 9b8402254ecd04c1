package detectors

import "time"

// Around is how much of the recording before and after a stall belongs to its
// window.
func Around() (before, after time.Duration) { return keepBefore, keepAfter }
