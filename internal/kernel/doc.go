// Package kernel is the only door to raw /proc, cgroups, netlink and
// golang.org/x/sys/unix. Everything in it that runs on the sampling path makes
// its system calls raw, on the thread that it is called on, without telling
// the Go scheduler, and allocates nothing after its first use.
package kernel
