// Command guest is what the virtual machine runs of ours. As the first process
// of the initial RAM disk it loads the modules for the disks, mounts them and
// hands over to systemd; as a service there it is the agent that runs the job
// and tells the host. The machine's image holds Debian packages only.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	if os.Getpid() == 1 {
		err = initialise()
	} else {
		err = agent()
	}
	fmt.Fprintln(os.Stderr, "guest:", err)
	if os.Getpid() == 1 {
		powerOff() // the host reads the console
	}
	os.Exit(1)
}
