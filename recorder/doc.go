// Package recorder keeps the last minutes of readings and events in fixed
// memory, pins what lies around a stall, and writes and reads .frz files
// (FORMAT.md). The sampler drives the collectors, each lane on a thread of its
// own, and writes into the ring without a lock or an allocation. The black box
// follows the ring and keeps days of it on disk, in segments that survive a
// power cut.
package recorder
