// Package detectors turns lateness into a verdict: stall.go decides when work
// that is late is a stall, ledger.go says where each victim's time went,
// chase.go finds who holds what they wait for while it can still be seen,
// judge.go lets the rules claim the time, and watch.go ties them to the
// recorder and the probes.
package detectors
