package collectors

import (
	"fmt"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// open opens a kernel file for repeated reading. A file that is not there is
// ErrNotHere: this kernel does not have the source.
func open(path string, size int) (*kernel.File, error) {
	f, err := kernel.OpenFile(path, size)
	if err != nil && kernel.IsGone(err) {
		return nil, fmt.Errorf("%w: %w", err, freezeframe.ErrNotHere)
	}
	return f, err
}
