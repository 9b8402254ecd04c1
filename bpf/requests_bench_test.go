package bpf

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The servers of the benchmarks run in another process: this test's binary.
func TestMain(m *testing.M) {
	mode, number, _ := strings.Cut(os.Getenv("FREEZEFRAME_TEST_SERVER"), " ")
	switch mode {
	case "crowd":
		n, _ := strconv.Atoi(number)
		connections(&testing.B{}, n)
		fmt.Println("ready")
		select {}
	case "echo":
		echoServer()
	case "http":
		httpServer()
	default:
		os.Exit(m.Run())
	}
}

func listenHere() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	return l
}

// echoServer is as little as a server can do.
func echoServer() {
	c, err := listenHere().Accept()
	if err != nil {
		os.Exit(1)
	}
	f, _ := c.(*net.TCPConn).File()
	fd := int(f.Fd())
	_ = unix.SetNonblock(fd, false)
	buf := make([]byte, 256)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			os.Exit(0)
		}
		_, _ = unix.Write(fd, buf[:n])
	}
}

// httpServer is a small one.
func httpServer() {
	_ = http.Serve(listenHere(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") }))
}

func startServer(b *testing.B, mode string) (address string, pid int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FREEZEFRAME_TEST_SERVER="+mode)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := fmt.Fscanln(out, &address); err != nil {
		b.Fatal(err)
	}
	return address, cmd.Process.Pid
}

// BenchmarkRequests compares requests over the loopback with and without the
// programs, in turns: run it with -benchtime 1x. the medians of the
// differences between turns next to each other.
func BenchmarkRequests(b *testing.B) {
	b.Run("echo", func(b *testing.B) {
		address, server := startServer(b, "echo")
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		f, err := c.(*net.TCPConn).File()
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		fd := int(f.Fd())
		if err := unix.SetNonblock(fd, false); err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 100)
		inTurns(b, server, func() {
			if _, err := unix.Write(fd, buf); err != nil {
				b.Fatal(err)
			}
			if _, err := unix.Read(fd, buf); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("http", func(b *testing.B) {
		address, server := startServer(b, "http")
		url := "http://" + address + "/"
		inTurns(b, server, func() {
			resp, err := http.Get(url)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	})
	b.Run("connections", func(b *testing.B) {
		address, server := startServer(b, "http")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		inTurns(b, server, func() {
			resp, err := client.Get("http://" + address + "/")
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	})
}

// inTurns makes requests with and without the programs and compares what one
// costs, in CPU time of both processes: the machine may have other work.
func inTurns(b *testing.B, server int, request func()) {
	const turn = 40 * time.Millisecond
	p := Load(onlyRequests())
	defer p.Close()
	if p.Requests == nil {
		b.Fatalf("%+v", p.Needs())
	}
	family := p.loaded[0]
	programs := slices.Clone(family.programs[1:]) // the walk is no tracepoint
	// Programs that do nothing on the same tracepoints: what there is to pay in
	// any case.
	var empty []*ebpf.Program
	for _, name := range []string{"sk_data_ready", "sock_recv_length", "sock_send_length"} {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: name, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			b.Fatal(err)
		}
		defer prog.Close()
		empty = append(empty, prog)
	}
	attach := func(progs []*ebpf.Program) {
		for _, lk := range family.links {
			lk.Close()
		}
		family.links, family.programs = nil, nil
		if err := (&loading{loaded: family}).trace(progs...); err != nil {
			b.Fatal(err)
		}
	}
	cost := func(progs []*ebpf.Program) float64 {
		attach(progs)
		for range 50 {
			request()
		}
		n, began, cpu := 0, time.Now(), cpuOf(b, server)+cpuOf(b, os.Getpid())
		for time.Since(began) < turn {
			for range 50 {
				request()
			}
			n += 50
		}
		return float64(cpuOf(b, server)+cpuOf(b, os.Getpid())-cpu) / float64(n)
	}
	var none, hooks, lost []float64
	for range b.N {
		for range 200 {
			without, nothing, with := cost(nil), cost(empty), cost(programs)
			none = append(none, without)
			hooks = append(hooks, nothing-without)
			lost = append(lost, with-without)
		}
	}
	median := func(list []float64) float64 {
		slices.Sort(list)
		return list[len(list)/2]
	}
	b.ReportMetric(median(none), "cpu-ns/request")
	b.ReportMetric(median(hooks), "empty-ns/request")
	b.ReportMetric(median(lost), "added-ns/request")
	b.ReportMetric(100*median(lost)/median(none), "added_%")
	attach(append(slices.Clone(programs), empty...))
	var stop atomic.Bool
	go func() {
		defer stop.Store(true)
		stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
		if err != nil {
			b.Error(err)
			return
		}
		time.Sleep(time.Second)
		stats.Close()
	}()
	for !stop.Load() {
		request()
	}
	for _, prog := range append(slices.Clone(programs), empty...) {
		if st, err := prog.Stats(); err == nil && st.RunCount > 0 {
			b.Logf("%s %d runs of %d ns", prog, st.RunCount, uint64(st.Runtime)/st.RunCount)
		}
	}
}

func onlyRequests() Options {
	return Options{Without: slices.DeleteFunc(Names(), func(name string) bool { return name == "requests" })}
}

// cpuOf is the CPU time of a process so far, in ns.
func cpuOf(b *testing.B, pid int) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		b.Fatal(err)
	}
	return ts.Nano()
}
