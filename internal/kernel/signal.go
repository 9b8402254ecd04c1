package kernel

import (
	"cmp"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Signal returns the name of a signal (signal(7)), or its number in words.
func Signal(s syscall.Signal) string {
	return cmp.Or(unix.SignalName(s), fmt.Sprintf("signal %d", int(s)))
}
