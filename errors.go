package freezeframe

import "errors"

// ErrNotHere says that this kernel or machine does not have a source at all
// (PSI switched off, no conntrack): it is listed under "not seen", and is not
// a failure.
var ErrNotHere = errors.New("not on this machine")
