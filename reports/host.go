package reports

import (
	"context"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/mem"

	"freezeframe"
)

// Host reads the facts of this machine. It is for the start of a watch: while
// something hangs nothing of it may be read again.
func Host(ctx context.Context) freezeframe.HostReport {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	h := freezeframe.HostReport{CPUs: runtime.NumCPU()}
	h.Name, _ = os.Hostname()
	// gopsutil returns what it could read together with the error.
	if info, _ := host.InfoWithContext(ctx); info != nil {
		h.Kernel = info.KernelVersion
		h.OS = strings.TrimSpace(info.Platform + " " + info.PlatformVersion)
		if info.VirtualizationRole == "guest" {
			h.Virtualization = info.VirtualizationSystem
		}
		h.Boot = time.Unix(int64(info.BootTime), 0).UTC()
	}
	if m, _ := mem.VirtualMemoryWithContext(ctx); m != nil {
		h.MemoryBytes = m.Total
	}
	cleanAll(&h)
	return h
}

// Users returns a function that names the users of this machine. A lookup can
// read files, and with them a disk that hangs: it is given 200 ms, once for
// each user.
func Users() func(uid uint32) string {
	var mu sync.Mutex
	names := make(map[uint32]string)
	return func(uid uint32) string {
		mu.Lock()
		defer mu.Unlock()
		if name, ok := names[uid]; ok {
			return name
		}
		found := make(chan string, 1)
		go func() {
			u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
			if err != nil {
				found <- ""
				return
			}
			found <- u.Username
		}()
		select {
		case names[uid] = <-found:
		case <-time.After(200 * time.Millisecond):
			names[uid] = ""
		}
		return names[uid]
	}
}
