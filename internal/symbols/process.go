package symbols

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"freezeframe/internal/kernel"
)

// processKey names a process so that a reused pid is another one.
type processKey struct {
	pid   int
	start uint64 // clock ticks, field 22 of /proc/PID/stat
}

// process is the executable mappings of a process at a moment.
type process struct {
	key      processKey
	mappings []mapping
	whole    bool
	exe      kernel.FileID // of the program: another one after exec, which keeps pid and start
	read     time.Time
}

func (p *process) at(ip uint64) *mapping {
	for i := range p.mappings {
		if m := &p.mappings[i]; ip >= m.start && ip < m.end {
			return m
		}
	}
	return nil
}

func (p *process) bytes() int {
	n := 256 + 80*cap(p.mappings)
	for i := range p.mappings {
		n += len(p.mappings[i].path)
	}
	return n
}

// place is where a file was seen mapped.
type place struct {
	key        processKey
	start, end uint64 // of the mapping; 0: it is the program itself
	ino        uint64
	path       string // as it stands in maps
	buildID    BuildID
}

func (m *mapping) place(k processKey) place {
	return place{key: k, start: m.start, end: m.end, ino: m.ino, path: m.path, buildID: m.buildID}
}

func (r *Resolver) pidPath(pid int, name string) string {
	return r.proc + "/" + strconv.Itoa(pid) + "/" + name
}

// startOf reads when a process started; it takes no lock that a stalled task
// could hold.
func (r *Resolver) startOf(pid int) (uint64, error) {
	b, err := os.ReadFile(r.pidPath(pid, "stat"))
	if err != nil {
		return 0, err
	}
	// The name can hold spaces and brackets: count from its last bracket.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read the start of process %d: %d fields behind its name", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// alive tells whether the pid still is that process.
func (r *Resolver) alive(k processKey) bool {
	start, err := r.startOf(k.pid)
	return err == nil && start == k.start
}

// readProcess reads a process's mappings and the build ids of what is mapped.
// It takes the process's mmap_lock, and can hang as long as that is held, or as
// long as a filesystem does.
func (r *Resolver) readProcess(k processKey) (*process, error) {
	f, err := os.Open(r.pidPath(k.pid, "maps"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{key: k, read: r.now(), exe: r.exeID(k.pid)}
	if p.mappings, p.whole, err = readMaps(f); err != nil {
		return nil, fmt.Errorf("read the mappings of process %d: %w", k.pid, err)
	}
	if !r.alive(k) {
		return nil, os.ErrProcessDone
	}
	known := make(map[uint64]BuildID) // by inode
	for i := range p.mappings {
		m := &p.mappings[i]
		if m.ino == 0 || m.isMemory() {
			continue
		}
		id, seen := known[m.ino]
		if !seen {
			file, fid, err := r.open(m.place(k))
			if err != nil {
				r.failed(err)
				continue
			}
			id = r.buildIDOf(file, fid)
			file.Close()
			known[m.ino] = id
		}
		m.buildID = id
		if id != (BuildID{}) {
			r.mu.Lock()
			r.places.put(id, m.place(k), len(m.path)+128)
			r.mu.Unlock()
		}
	}
	return p, nil
}

// program returns the place of a process's program, found without its
// mmap_lock; the zero place where it cannot be had.
func (r *Resolver) program(k processKey) place {
	at := place{key: k}
	f, id, err := r.open(at)
	if err != nil {
		r.failed(err)
		return place{}
	}
	defer f.Close()
	at.path, _ = os.Readlink(r.pidPath(k.pid, "exe")) // only to be shown
	at.buildID = r.buildIDOf(f, id)
	return at
}

// exeID names the program of a process, without its mmap_lock; the zero FileID
// where it cannot be had.
func (r *Resolver) exeID(pid int) kernel.FileID {
	f, err := kernel.OpenRegular(r.pidPath(pid, "exe"))
	if err != nil {
		return kernel.FileID{}
	}
	defer f.Close()
	id, err := kernel.IDOf(f)
	if err != nil {
		return kernel.FileID{}
	}
	return id
}

// open opens a mapped file: the very inode through map_files (which takes
// CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE) or exe, or what now has its path in
// the process's root, or on the host when the process is gone, if it is the
// same by its build id, or without one by its inode.
func (r *Resolver) open(at place) (*os.File, kernel.FileID, error) {
	if !r.alive(at.key) {
		if at.buildID == (BuildID{}) {
			return nil, kernel.FileID{}, os.ErrProcessDone
		}
		return r.openPath(r.host, at)
	}
	// The links are the mapping's own; overlayfs shows another inode than maps.
	linked := at
	linked.ino = 0
	if at.end == 0 {
		return r.openAs(linked, func() (*os.File, error) { return kernel.OpenRegular(r.pidPath(at.key.pid, "exe")) })
	}
	f, id, err := r.openAs(linked, func() (*os.File, error) {
		return kernel.OpenRegular(r.pidPath(at.key.pid, fmt.Sprintf("map_files/%x-%x", at.start, at.end)))
	})
	if err == nil {
		return f, id, nil
	}
	if f, id, err := r.openAs(at, func() (*os.File, error) { return kernel.OpenRegular(r.pidPath(at.key.pid, "exe")) }); err == nil {
		return f, id, nil
	}
	if f, id, err := r.openPath(r.pidPath(at.key.pid, "root"), at); err == nil {
		return f, id, nil
	}
	return nil, kernel.FileID{}, err
}

// openAs opens a file and holds it against what was seen mapped.
func (r *Resolver) openAs(at place, open func() (*os.File, error)) (*os.File, kernel.FileID, error) {
	f, err := open()
	if err != nil {
		return nil, kernel.FileID{}, err
	}
	id, err := kernel.IDOf(f)
	if err == nil && !r.same(f, id, at) {
		err = errReplaced
	}
	if err != nil {
		f.Close()
		return nil, kernel.FileID{}, err
	}
	return f, id, nil
}

var errReplaced = errors.New("another file is there now")

func (r *Resolver) openPath(root string, at place) (*os.File, kernel.FileID, error) {
	file, deleted := strings.CutSuffix(at.path, " (deleted)")
	if deleted || !strings.HasPrefix(file, "/") {
		return nil, kernel.FileID{}, errReplaced
	}
	file = strings.ReplaceAll(file, `\012`, "\n") // as the kernel writes it
	return r.openAs(at, func() (*os.File, error) { return kernel.OpenRegularIn(root, file, true) })
}

// same tells whether a file is what was seen mapped. The inode alone would not
// do on the host, where its number belongs to another filesystem.
func (r *Resolver) same(f *os.File, id kernel.FileID, at place) bool {
	if at.buildID != (BuildID{}) {
		return r.buildIDOf(f, id) == at.buildID
	}
	return at.ino == 0 || id.Ino == at.ino
}

// buildIDOf returns a file's build id.
func (r *Resolver) buildIDOf(f *os.File, fid kernel.FileID) (id BuildID) {
	r.mu.Lock()
	id, ok := r.ids.get(fid)
	r.mu.Unlock()
	if ok {
		return id
	}
	if e, err := elf.NewFile(&budget{f, maxHeaders}); err == nil {
		copy(id[:], buildID(e, f))
	}
	r.mu.Lock()
	r.ids.put(fid, id, 64)
	r.mu.Unlock()
	return id
}

// debugFile finds the symbols of a stripped file: by build id, and by the name
// in .gnu_debuglink (GDB manual, "Debugging Information in Separate Files").
func (r *Resolver) debugFile(im *image, at place) (*os.File, *image) {
	var ways []string
	if len(im.buildID) > 1 {
		id := fmt.Sprintf("%x", im.buildID)
		ways = append(ways, "/usr/lib/debug/.build-id/"+id[:2]+"/"+id[2:]+".debug")
	}
	if im.debug.name != "" && strings.HasPrefix(at.path, "/") {
		dir := path.Dir(at.path)
		ways = append(ways, dir+"/"+im.debug.name, dir+"/.debug/"+im.debug.name, "/usr/lib/debug"+dir+"/"+im.debug.name)
	}
	roots := []string{r.pidPath(at.key.pid, "root")}
	if im.buildID != "" { // a build id is the same file on the host
		roots = append(roots, r.host)
	}
	for _, root := range roots {
		for _, way := range ways {
			f, err := kernel.OpenRegularIn(root, way, true)
			if err != nil {
				continue
			}
			d, err := readImage(f)
			if err == nil && d.symtab != nil && d.class == im.class && r.belongs(im, d, f) {
				return f, d
			}
			f.Close()
		}
	}
	return nil, nil
}

// belongs tells whether a debug file was made of the same program.
func (r *Resolver) belongs(im, d *image, f *os.File) bool {
	if im.buildID != "" {
		return d.buildID == im.buildID
	}
	id, err := kernel.IDOf(f)
	if err != nil || id.Size > maxDebug {
		return false
	}
	sum := crc32.NewIEEE()
	_, err = io.Copy(sum, io.NewSectionReader(f, 0, id.Size))
	return err == nil && sum.Sum32() == im.debug.crc
}

// opened is a file that is open while one stack is named.
type opened struct {
	file, debug *os.File
	im          *image
	id          kernel.FileID
}

func (o *opened) close() {
	o.file.Close()
	if o.debug != nil {
		o.debug.Close()
	}
}

// openImage opens a file and finds what is known of it.
func (r *Resolver) openImage(at place) (*opened, error) {
	f, id, err := r.open(at)
	if err != nil {
		return nil, err
	}
	o := &opened{file: f, id: id}
	r.mu.Lock()
	kept, ok := r.images.get(id)
	r.mu.Unlock()
	if ok {
		o.im = kept.im
		if kept.im.inDebug {
			if d, err := kernel.OpenRegularIn(kept.debugRoot, kept.debugPath, true); err == nil {
				if did, err := kernel.IDOf(d); err == nil && did == kept.debugID {
					o.debug = d
				} else {
					d.Close()
				}
			}
		}
		return o, nil
	}
	if o.im, err = readImage(f); err != nil {
		f.Close()
		return nil, err
	}
	k := &keptImage{im: o.im}
	if o.im.symtab == nil {
		if d, dim := r.debugFile(o.im, at); d != nil {
			o.im.symtab, o.im.inDebug, o.debug = dim.symtab, true, d
			k.debugID, _ = kernel.IDOf(d)
			k.debugRoot, k.debugPath, _ = cutRoot(d.Name(), r.pidPath(at.key.pid, "root"), r.host)
		}
	}
	r.mu.Lock()
	r.images.put(id, k, o.im.bytes())
	r.mu.Unlock()
	return o, nil
}

type keptImage struct {
	im                   *image
	debugRoot, debugPath string
	debugID              kernel.FileID
}

// cutRoot takes the root off a path that OpenRegularIn has opened.
func cutRoot(name string, roots ...string) (root, rest string, ok bool) {
	for _, root := range roots {
		if rest, ok := strings.CutPrefix(name, root); ok {
			return root, rest, true
		}
	}
	return "", "", false
}

// jit is a process's perf map.
type jit struct {
	m    *perfMap
	id   kernel.FileID
	read time.Time
}

// jitMap returns a process's perf map, or nil. It is believed only where it
// belongs to the process's user or root, as perf does: anybody may write
// /tmp.
func (r *Resolver) jitMap(k processKey) *perfMap {
	status, err := os.ReadFile(r.pidPath(k.pid, "status"))
	if err != nil {
		return nil
	}
	pid, uid, ok := parseStatus(status, k.pid)
	if !ok {
		return nil
	}
	f, err := kernel.OpenRegularIn(r.pidPath(k.pid, "root"), "/tmp/perf-"+strconv.Itoa(pid)+".map", false)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			r.failed(err)
		}
		return nil
	}
	defer f.Close()
	id, err := kernel.IDOf(f)
	if err != nil || id.UID != 0 && id.UID != uid {
		return nil
	}
	r.mu.Lock()
	j, ok := r.jits.get(k)
	r.mu.Unlock()
	// A map that grows all the time is not read again with every stack.
	if ok && (j.id == id || r.now().Sub(j.read) < 5*time.Second) {
		return j.m
	}
	m, err := readPerfMap(f, id.Size)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	r.jits.put(k, &jit{m, id, r.now()}, m.bytes())
	r.mu.Unlock()
	return m
}

// parseStatus finds the pid that a process has in its own pid namespace, and
// its effective user, in /proc/PID/status.
func parseStatus(b []byte, pid int) (nspid int, uid uint32, ok bool) {
	nspid = pid // before Linux 4.1 there is no NSpid
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch string(fields[0]) {
		case "NSpid:":
			if n, err := strconv.Atoi(string(fields[len(fields)-1])); err == nil {
				nspid = n
			}
		case "Uid:": // real, effective, saved, filesystem
			if len(fields) < 3 {
				return 0, 0, false
			}
			v, err := strconv.ParseUint(string(fields[2]), 10, 32)
			uid, ok = uint32(v), err == nil
		}
	}
	return nspid, uid, ok
}
