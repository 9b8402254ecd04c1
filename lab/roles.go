package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"freezeframe/lab/victim"
)

// builtinRoles are the programs that more than one fault uses.
func builtinRoles() map[string]func(args []string) {
	return map[string]func(args []string){
		"place":     placeRole,
		"janitor":   janitorRole,
		"users":     victim.Users,
		"meter":     victim.Meter,
		"service":   victim.Service,
		"epoll":     victim.EpollService,
		"bystander": bystander,
		"spin":      spin,
	}
}

// spin uses CPU between "go" and "stop", on as many threads as the first
// argument says; the second and third make it rest: "spin 1 30ms 100ms" is
// busy 30 of every 100 ms.
func spin(args []string) {
	threads, _ := strconv.Atoi(args[0])
	busy, every := time.Hour, time.Hour
	if len(args) == 3 {
		busy, _ = time.ParseDuration(args[1])
		every, _ = time.ParseDuration(args[2])
	}
	runtime.GOMAXPROCS(threads + 1)
	var stop chan struct{}
	Listen("", func(line string) {
		switch line {
		case "go":
			stop = make(chan struct{})
			for range threads {
				go burn(stop, busy, every)
			}
		case "stop":
			close(stop)
		}
	})
}

func burn(stop chan struct{}, busy, every time.Duration) {
	runtime.LockOSThread()
	for {
		begin := time.Now()
		for time.Since(begin) < busy {
			for x := 0; x < 20_000; x++ {
				_ = x * x
			}
			select {
			case <-stop:
				return
			default:
			}
		}
		time.Sleep(every - time.Since(begin))
	}
}

// bystander is what else goes on on a machine, and must not be blamed.
func bystander(args []string) {
	switch args[0] {
	case "thumbnailer": // 30 % of a CPU, niced by its starter
		go burn(nil, 30*time.Millisecond, 100*time.Millisecond)
	case "metricsd": // small writes, not synced
		f, err := os.Create(filepath.Join(args[1], "metrics"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			for range time.Tick(100 * time.Millisecond) {
				_, _ = f.WriteAt(make([]byte, 64<<10), 0)
			}
		}()
	case "chatd": // a conversation over loopback, 50 messages a second
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 1024)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				_, _ = conn.Write(buf[:n])
			}
		}()
		go func() {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return
			}
			buf := make([]byte, 200)
			for range time.Tick(20 * time.Millisecond) {
				_, _ = conn.Write(buf)
				_, _ = conn.Read(buf)
			}
		}()
	}
	Listen("", nil)
}
