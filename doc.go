// Package freezeframe holds the words that every other package speaks: moments
// and spans, readings (Table) and events, the window around a stall, the time
// ledger, rules and their findings, and the report.
//
// It uses the standard library only and does no I/O. A reading goes through the
// folders in this order: collectors, recorder, probes, detectors, reports.
package freezeframe
