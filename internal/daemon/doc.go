// Package daemon keeps the recorder running: it drives the watch, the black box
// and the archive, answers the control socket, serves metrics, and tells the
// service manager how things stand. What can wait for a disk, a client or the
// manager is on a goroutine of its own; the watch waits for none of them.
package daemon
