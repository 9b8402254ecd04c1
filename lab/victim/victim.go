// Package victim holds the services that the lab's faults freeze, and the
// users that measure how long they waited. It knows nothing of the faults.
package victim

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// The kinds of service. All speak HTTP/1.1 and do Spec.Work for GET /.
const (
	Go      = "go"      // net/http
	Threads = "threads" // Python, one thread per connection, blocking calls
	Loop    = "loop"    // Python, one event loop
	Pool    = "pool"    // Python, pre-forked workers that take one connection at a time
	Node    = "node"
	Java    = "java"     // com.sun.net.httpserver
	Epoll   = "epoll"    // Go, one thread around epoll_wait, as one writes it in C
	Workers = "javapool" // Java, a fixed pool of threads, blocking calls
)

// Spec is a service to start.
type Spec struct {
	Name string // process name of a Go service
	Kind string
	// Work is done for every request, in order, each "what:argument":
	//	append:FILE   a log line, not synced      fsync:FILE   a record, synced
	//	direct:FILE   read 4 KiB with O_DIRECT    pipe:FIFO    a log line of 4 KiB
	//	read:FILE     open it, read 4 KiB, close it (Go)
	//	flock:FILE    take and release the lock   fcntl:FILE   the same, POSIX
	//	touch:KIB     map, touch and unmap        pages:N      touch N of the working set
	//	mapped:N:FILE touch N pages of a mapped file
	//	refault:KIB   touch and give back memory that stays mapped
	//	map:N         map and unmap memory N times, trying until it can be (Python)
	//	watch         take an inotify instance, trying until it can be (Python)
	//	lookup:FILE   look up a name by libc, with this resolv.conf (Threads)
	//	compute:TIME  of CPU                      sleep:TIME
	//	call:ADDRESS  GET / of another service    dial:ADDRESS the same, new connection
	//	resolve:ADDRESS look up a name there, trying again every second
	//	nested:A,B    take the flock of file A, then that of B (Python)
	//	send:ADDRESS  send 8 KiB on a connection that stays (Python)
	//	fork:PROGRAM  run it, trying until it can be
	//	wall:TIME     wait for a rate limit that reckons in wall-clock time
	//	till           what its standard input said: sleep or compute till then
	//	lock           take and release a lock that standard input can have held
	//	locked:WORK    other work, by one thread at a time (Threads, Loop and Pool)
	//	pair           two locks, in order; pair:PATH those of two files (Python)
	//	mutexes        two mutexes of the C library, in order (Python)
	//	heap:TIME      nothing, but keep objects whose collection takes so long
	// The Python kinds know append, fsync, pipe, flock, compute, sleep, call,
	// resolve, fork, till, lock, pair and heap; Epoll what Go knows, but no heap; Node and
	// Workers what their sources say.
	Work    []string
	Set     int      // MiB of working set, for pages
	Workers int      // of a Pool
	Backlog int      // of the listen queue; 0: as usual
	Slow    string   // accept only every so often (Threads): "30ms"
	JVM     []string // flags of Java
	Live    int      // MiB of live objects (Java), of plain memory (Loop)
	Fresh   bool     // users make a new connection for every request
	Host    string   // address to listen on, 127.0.0.1; or unix:PATH (not Java)
}

//go:embed service.py
var servicePy []byte

//go:embed service.js
var serviceJS []byte

//go:embed Service.java
var serviceJava []byte

//go:embed Workers.java
var workersJava []byte

// Command returns how to start the service: a role of the lab binary with its
// arguments, or a program. Scripts are put in dir.
func (v Spec) Command(dir string) (role, path string, args []string, err error) {
	host := v.Host
	if host == "" {
		host = "127.0.0.1"
	}
	switch v.Kind {
	case Go:
		args = []string{"-host", host, "-set", strconv.Itoa(v.Set)}
		return "service", "", append(args, v.Work...), nil
	case Epoll:
		return "epoll", "", append([]string{"-host", host}, v.Work...), nil
	case Threads, Loop, Pool:
		path, err = Python()
		if err != nil {
			return "", "", nil, err
		}
		script := filepath.Join(dir, "service.py")
		err = os.WriteFile(script, servicePy, 0o644)
		args = []string{script, v.Kind, host, strconv.Itoa(max(v.Workers, 1)), strconv.Itoa(v.Backlog), or(v.Slow, "0"), strconv.Itoa(v.Live)}
		return "", path, append(args, v.Work...), err
	case Node:
		script := filepath.Join(dir, "service.js")
		if slices.ContainsFunc(v.Work, func(w string) bool { return strings.HasPrefix(w, "heap:") }) {
			args = []string{"--expose-gc"}
		}
		args = append(append(args, script, host), v.Work...)
		return "", "node", args, os.WriteFile(script, serviceJS, 0o644)
	case Workers:
		classes, err := compileJava("Workers", workersJava)
		args = append(append([]string{}, v.JVM...), "-cp", classes, "Workers", host, strconv.Itoa(max(v.Workers, 1)))
		return "", "java", append(args, v.Work...), err
	case Java:
		classes, err := compileJava("Service", serviceJava)
		// Without nodelay this server takes 40 ms per request on a connection
		// that stays, and its users queue for a second after a short stall.
		args = append(append([]string{"-Dsun.net.httpserver.nodelay=true"}, v.JVM...), "-cp", classes, "Service", host, strconv.Itoa(v.Live))
		return "", "java", args, err
	}
	return "", "", nil, fmt.Errorf("no kind of service is called %q", v.Kind)
}

// Users returns the arguments of the users of this service.
func (v Spec) Users(address string) []string {
	if v.Fresh {
		return []string{"-fresh", address}
	}
	return []string{address}
}

// Python returns the interpreter itself, not a wrapper that starts it.
var Python = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		return "", fmt.Errorf("find python3: %w", err)
	}
	return filepath.EvalSymlinks(strings.TrimSpace(string(out)))
})

// compileJava compiles a Java service once for each version of its text.
func compileJava(class string, text []byte) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "freezeframe-lab", "java")
	source := filepath.Join(dir, class+".java")
	if have, err := os.ReadFile(source); err == nil && string(have) == string(text) {
		if _, err := os.Stat(filepath.Join(dir, class+".class")); err == nil {
			return dir, nil
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(source, text, 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command("javac", "-d", dir, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("javac: %w: %s", err, out)
	}
	return dir, nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
