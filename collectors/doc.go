// Package collectors reads the kernel's own accounts: one kernel source a
// file, each a freezeframe.Collector. A collector keeps its descriptors open,
// reads them by raw system calls on the thread it is called on, and allocates
// nothing once its tables have reached their size.
package collectors
