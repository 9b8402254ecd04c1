package victim

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Service is the Go service; its arguments are those of Spec.Command.
func Service(args []string) {
	flags := flag.NewFlagSet("service", flag.ExitOnError)
	host := flags.String("host", "127.0.0.1", "")
	set := flags.Int("set", 0, "")
	_ = flags.Parse(args)
	stall := &stalls{}
	steps, err := work(flags.Args(), *set, stall)
	if err != nil {
		log.Fatal(err)
	}
	l, err := listen(*host)
	if err != nil {
		log.Fatal(err)
	}
	var leaked []*os.File
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		for _, step := range steps {
			if err := step(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("/compute/", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(strings.TrimPrefix(r.URL.Path, "/compute/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		Compute(d)
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("/wait/", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(strings.TrimPrefix(r.URL.Path, "/wait/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(d)
		_, _ = io.WriteString(w, "ok\n")
	})
	fmt.Println("ready", listensOn(l))
	go func() {
		log.Fatal((&http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}).Serve(patient{l, stall}))
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		what, arg, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "leak": // so many descriptors, if it can
			n, _ := strconv.Atoi(arg)
			for range n {
				f, err := os.Open("/dev/null")
				if err != nil {
					break
				}
				leaked = append(leaked, f)
			}
		case "close":
			for _, f := range leaked {
				f.Close()
			}
			leaked = nil
		case "warm":
			for _, b := range stall.mapped {
				warm(b)
			}
		case "populate":
			mib, _ := strconv.Atoi(arg)
			populate(mib << 20)
		default:
			if stall.begin(what, arg) {
				continue // nobody waits to hear of it
			}
		}
		fmt.Println("done")
	}
}

// patient is a listener that survives a lack of memory, as any real server's does.
type patient struct {
	net.Listener
	stall *stalls
}

func (p patient) Accept() (conn net.Conn, err error) {
	for {
		sleepThread(p.stall.accept.Load())
		conn, err = p.Listener.Accept()
		if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOBUFS) {
			return conn, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// spareThreads has the runtime make so many threads, which it keeps, and use the
// signal stack of each once. In a cgroup at its memory limit the kernel makes no
// thread, and it cannot put a signal (the runtime preempts by them) on a page
// that is not there: either ends the process with status 2.
func spareThreads(n int) {
	var all sync.WaitGroup
	until := now() + int64(100*time.Millisecond)
	for range n {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGURG)
			sleepThread(until)
		})
	}
	all.Wait()
}

// Mapped maps a whole file to read.
func Mapped(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
}

// warm reads a mapped file into memory; from then on a look-up that misses
// brings one page.
func warm(b []byte) {
	_ = unix.Madvise(b, unix.MADV_NORMAL)
	Touch(b)
	_ = unix.Madvise(b, unix.MADV_RANDOM)
}

// Touch reads a byte of every page.
//
//go:noinline
func Touch(b []byte) (sum byte) {
	for at := 0; at < len(b); at += 4096 {
		sum += b[at]
	}
	return sum
}

// populate maps memory and fills it within the call, under the address
// space's lock, and gives it back.
func populate(bytes int) {
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err == nil {
		_ = unix.Munmap(b)
	}
}

// work turns "what:argument" into what to do. It uses plain blocking calls, so
// that a thread waits where a thread of a C program would.
func work(specs []string, setMiB int, stall *stalls) ([]func() error, error) {
	var steps []func() error
	for _, spec := range specs {
		what, arg, _ := strings.Cut(spec, ":")
		if step := stall.step(what); step != nil {
			steps = append(steps, step)
			continue
		}
		if what == "mapped" {
			count, name, _ := strings.Cut(arg, ":")
			n, err := strconv.Atoi(count)
			if err != nil {
				return nil, fmt.Errorf("work %q: %w", spec, err)
			}
			b, err := Mapped(name)
			if err != nil {
				return nil, fmt.Errorf("work %q: %w", spec, err)
			}
			warm(b)
			stall.mapped = append(stall.mapped, b)
			steps = append(steps, func() error {
				for range n {
					at := rand.IntN(len(b))
					Touch(b[at : at+1])
				}
				return nil
			})
			continue
		}
		step, err := workStep(what, arg, setMiB)
		if err != nil {
			return nil, fmt.Errorf("work %q: %w", spec, err)
		}
		steps = append(steps, step)
	}
	return steps, nil
}

func workStep(what, arg string, setMiB int) (func() error, error) {
	switch what {
	case "append", "fsync", "pipe":
		mode := unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND
		if what == "pipe" {
			mode = unix.O_WRONLY
		}
		fd, err := unix.Open(arg, mode|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, err
		}
		line := []byte(strings.Repeat("GET / 200 ", 50) + "\n")
		if what == "pipe" {
			line = []byte(strings.Repeat("GET / 200 ", 410)[:4095] + "\n")
		}
		return func() error {
			if err := insist(func() error { _, err := unix.Write(fd, line); return err }); err != nil {
				return err
			}
			if what == "fsync" {
				return unix.Fsync(fd)
			}
			return nil
		}, nil
	case "read":
		return func() error {
			fd, err := unix.Open(arg, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Read(fd, make([]byte, 4096))
			return err
		}, nil
	case "direct", "directwrite":
		fd, err := unix.Open(arg, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		size, err := unix.Seek(fd, 0, io.SeekEnd)
		if err != nil {
			return nil, err
		}
		return func() error {
			buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return err
			}
			defer unix.Munmap(buf)
			at := rand.Int64N(size/4096) * 4096
			if what == "direct" {
				_, err = unix.Pread(fd, buf, at)
			} else {
				_, err = unix.Pwrite(fd, buf, at)
			}
			return err
		}, nil
	case "flock":
		return func() error {
			fd, err := unix.Open(arg, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return again(func() error { return unix.Flock(fd, unix.LOCK_EX) })
		}, nil
	case "fcntl":
		var one sync.Mutex // POSIX locks are the process's: one at a time
		fd, err := unix.Open(arg, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, err
		}
		return func() error {
			one.Lock()
			defer one.Unlock()
			lock := unix.Flock_t{Type: unix.F_WRLCK}
			if err := again(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_SETLKW, &lock) }); err != nil {
				return err
			}
			lock.Type = unix.F_UNLCK
			return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lock)
		}, nil
	case "touch":
		kib, err := strconv.Atoi(arg)
		return func() error {
			var b []byte
			err := insist(func() (err error) {
				b, err = unix.Mmap(-1, 0, kib<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
				return err
			})
			if err != nil {
				return err
			}
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			return unix.Munmap(b)
		}, err
	case "refault":
		kib, err := strconv.Atoi(arg)
		if err != nil {
			return nil, err
		}
		area, err := unix.Mmap(-1, 0, kib<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return nil, err
		}
		_ = unix.Madvise(area, unix.MADV_NOHUGEPAGE)
		spareThreads(32)
		var one sync.Mutex
		return func() error {
			one.Lock()
			defer one.Unlock()
			for i := 0; i < len(area); i += 4096 {
				area[i] = 1
			}
			return unix.Madvise(area, unix.MADV_DONTNEED)
		}, nil
	case "pages":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return nil, err
		}
		set, err := unix.Mmap(-1, 0, setMiB<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return nil, err
		}
		_ = unix.Madvise(set, unix.MADV_NOHUGEPAGE)
		for i := 0; i < len(set); i += 4096 {
			set[i] = byte(rand.Uint32())
		}
		return func() error {
			for range n {
				set[rand.IntN(len(set))]++
			}
			return nil
		}, nil
	case "compute":
		d, err := time.ParseDuration(arg)
		return func() error { Compute(d); return nil }, err
	case "sleep":
		d, err := time.ParseDuration(arg)
		return func() error { time.Sleep(d); return nil }, err
	case "call", "dial":
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: what == "dial", MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}}
		return func() error {
			return insist(func() error {
				resp, err := client.Get("http://" + arg + "/")
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, resp.Body)
				return errors.Join(err, resp.Body.Close())
			})
		}, nil
	case "resolve":
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp", arg)
		}}
		return func() error {
			for {
				// As with "options timeout:1" in resolv.conf.
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_, err := resolver.LookupNetIP(ctx, "ip4", "db.example.")
				cancel()
				if err == nil {
					return nil
				}
			}
		}, nil
	case "fork":
		return func() error { return insist(func() error { return exec.Command(arg).Run() }) }, nil
	case "wall":
		every, err := time.ParseDuration(arg)
		if err != nil {
			return nil, err
		}
		var next atomic.Int64
		return func() error {
			// A limiter as many are: the next slot is a wall-clock time.
			at := next.Add(int64(every))
			if now := wall(); at < now {
				next.Store(now)
				return nil
			}
			for wall() < at {
				time.Sleep(time.Millisecond)
			}
			return nil
		}, nil
	}
	return nil, errors.New("unknown")
}

func wall() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &ts)
	return ts.Nano()
}

// insist tries again for as long as something is only full or used up, as a
// service does that would rather be late than fail.
func insist(try func() error) error {
	for {
		err := try()
		switch {
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EADDRNOTAVAIL),
			errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENOMEM):
			time.Sleep(20 * time.Millisecond)
		case errors.Is(err, unix.EINTR):
		default:
			return err
		}
	}
}

// again repeats a call that a signal interrupted.
func again(try func() error) error {
	for {
		if err := try(); err != unix.EINTR {
			return err
		}
	}
}

// Compute uses d of CPU on the thread that it is called on.
func Compute(d time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	end := threadCPU() + int64(d)
	for threadCPU() < end {
		for x := uint64(0); x < 2000; x++ {
			_ = x * x
		}
	}
}

func threadCPU() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return ts.Nano()
}
