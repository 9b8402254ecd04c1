package collectors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"freezeframe/internal/kernel"
)

// HotSpot keeps performance counters in a file of 32 KiB that it maps into
// memory, hsperfdata version 2.0 (src/hotspot/share/runtime/perfMemory.hpp).
const (
	hsperfMagic  = 0xcafec0c0 // big endian, whatever the machine is
	hsperfHeader = 32
	hsperfEntry  = 20
	maxHsperf    = 64 << 10
	maxGCs       = 4
	maxSpaces    = 16
)

// hsperf is where the counters stand in one JVM's file: 0 for one that it does
// not have.
type hsperf struct {
	entries uint32
	size    int // how much of the file holds what is wanted

	safepoints, safepointTime, safepointSync, ticks, frequency int
	cause, lastCause                                           [2]int // offset, length
	gcs                                                        [maxGCs]hsperfGC
	used                                                       [maxSpaces]int
	spaces                                                     int
	maxCapacity                                                [maxGCs]int
}

type hsperfGC struct {
	name                           [2]int
	invocations, time, entry, exit int
}

// parseHsperf finds the counters; false when b is no such file, or is not
// ready yet. Nothing in it is trusted: every offset lies within b.
func parseHsperf(b []byte, h *hsperf) bool {
	*h = hsperf{}
	if len(b) < hsperfHeader || binary.BigEndian.Uint32(b) != hsperfMagic || b[5] != 2 || b[7] == 0 {
		return false
	}
	if (b[4] == 1) != (binary.NativeEndian.Uint16([]byte{1, 0}) == 1) {
		return false // of a machine with another byte order
	}
	at := int(int32(binary.NativeEndian.Uint32(b[24:])))
	h.entries = binary.NativeEndian.Uint32(b[28:])
	for range min(h.entries, 4096) {
		if at < hsperfHeader || at+hsperfEntry > len(b) {
			break
		}
		e := b[at:]
		length := int(int32(binary.NativeEndian.Uint32(e)))
		if length < hsperfEntry || length > len(e) {
			break
		}
		e = e[:length]
		nameAt := int(int32(binary.NativeEndian.Uint32(e[4:])))
		vector := int(int32(binary.NativeEndian.Uint32(e[8:])))
		dataAt := int(int32(binary.NativeEndian.Uint32(e[16:])))
		kind := e[12]
		at += length
		if nameAt < hsperfEntry || nameAt >= length || dataAt < hsperfEntry || dataAt > length {
			continue
		}
		name := e[nameAt:]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		size := 8
		if kind == 'B' {
			size = vector
		} else if kind != 'J' || vector != 0 {
			continue
		}
		if size <= 0 || dataAt+size > length {
			continue
		}
		if h.note(name, at-length+dataAt, size, kind == 'B') {
			h.size = max(h.size, at-length+dataAt+size)
		}
	}
	return h.safepoints != 0 || h.gcs[0].invocations != 0
}

// note keeps the place of a counter that is wanted.
func (h *hsperf) note(name []byte, at, size int, text bool) bool {
	if text {
		switch string(name) {
		case "sun.gc.cause":
			h.cause = [2]int{at, size}
			return true
		case "sun.gc.lastCause":
			h.lastCause = [2]int{at, size}
			return true
		}
		if i, rest, ok := numbered(name, "sun.gc.collector."); ok && i < maxGCs && string(rest) == "name" {
			h.gcs[i].name = [2]int{at, size}
			return true
		}
		return false
	}
	var to *int
	switch string(name) {
	case "sun.rt.safepoints":
		to = &h.safepoints
	case "sun.rt.safepointTime":
		to = &h.safepointTime
	case "sun.rt.safepointSyncTime":
		to = &h.safepointSync
	case "sun.os.hrt.ticks":
		to = &h.ticks
	case "sun.os.hrt.frequency":
		to = &h.frequency
	}
	if i, rest, ok := numbered(name, "sun.gc.collector."); ok && i < maxGCs {
		switch string(rest) {
		case "invocations":
			to = &h.gcs[i].invocations
		case "time":
			to = &h.gcs[i].time
		case "lastEntryTime":
			to = &h.gcs[i].entry
		case "lastExitTime":
			to = &h.gcs[i].exit
		}
	}
	if i, rest, ok := numbered(name, "sun.gc.generation."); ok && i < maxGCs {
		if string(rest) == "maxCapacity" {
			to = &h.maxCapacity[i]
		} else if _, rest, ok = numbered(rest, "space."); ok && string(rest) == "used" && h.spaces < maxSpaces {
			to = &h.used[h.spaces]
			h.spaces++
		}
	}
	if to == nil {
		return false
	}
	*to = at
	return true
}

// numbered cuts "prefixN." off a name.
func numbered(name []byte, prefix string) (n int, rest []byte, ok bool) {
	if !bytes.HasPrefix(name, []byte(prefix)) {
		return 0, nil, false
	}
	digits, rest, ok := bytes.Cut(name[len(prefix):], []byte{'.'})
	v, isNumber := kernel.Uint(digits)
	return int(min(v, 1<<20)), rest, ok && isNumber
}

// value returns a counter of a file that was read into b.
func hsperfValue(b []byte, at int) uint64 {
	if at == 0 || at+8 > len(b) {
		return 0
	}
	return binary.NativeEndian.Uint64(b[at:])
}

func hsperfText(b []byte, at [2]int) []byte {
	if at[0] == 0 || at[0]+at[1] > len(b) {
		return nil
	}
	s := b[at[0] : at[0]+at[1]]
	if i := bytes.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return s
}

// openHsperf opens the counters of a JVM and returns a descriptor, -1 when
// there are none to be had. It looks into the process's own /tmp, so that
// containers and private /tmp's work, and then at its mapped files, which also
// finds a file that was deleted. It may hang, and allocates: for a worker.
func openHsperf(proc string, pid int) int {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	if fd := hsperfInTmp(dir, pid); fd >= 0 {
		return fd
	}
	maps, err := os.Open(filepath.Join(dir, "maps"))
	if err != nil {
		return -1
	}
	defer maps.Close()
	for lines := bufio.NewScanner(io.LimitReader(maps, 16<<20)); lines.Scan(); {
		span, rest, ok := strings.Cut(lines.Text(), " ")
		if !ok || !strings.Contains(rest, "/hsperfdata_") {
			continue
		}
		f, err := os.Open(filepath.Join(dir, "map_files", span))
		if err != nil {
			continue
		}
		if fd := takeHsperf(f); fd >= 0 {
			return fd
		}
	}
	return -1
}

func hsperfInTmp(dir string, pid int) int {
	names := []string{strconv.Itoa(pid)}
	if b, err := os.ReadFile(filepath.Join(dir, "status")); err == nil {
		var s taskStatus
		parseTaskStatus(b, &s)
		if s.nspid != 0 {
			names[0] = strconv.FormatUint(s.nspid, 10) // as the JVM sees itself
		}
	}
	// A Root does not follow links out of the container.
	root, err := os.OpenRoot(filepath.Join(dir, "root"))
	if err != nil {
		return -1
	}
	defer root.Close()
	tmp, err := root.Open("tmp")
	if err != nil {
		return -1
	}
	defer tmp.Close()
	for range 64 { // 64 × 256 names: a /tmp that holds more is not searched on
		entries, err := tmp.ReadDir(256)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "hsperfdata_") {
				continue
			}
			for _, name := range names {
				f, err := root.OpenFile("tmp/"+e.Name()+"/"+name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
				if err != nil {
					continue
				}
				if fd := takeHsperf(f); fd >= 0 {
					return fd
				}
			}
		}
		if err != nil {
			break
		}
	}
	return -1
}

// takeHsperf closes f and returns a descriptor of it, if it is what it should
// be and can be read without waiting for anybody.
func takeHsperf(f *os.File) int {
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() < hsperfHeader || kernel.CanHang(int(f.Fd())) {
		return -1
	}
	b := make([]byte, min(info.Size(), maxHsperf))
	var h hsperf
	if n, _ := f.ReadAt(b, 0); !parseHsperf(b[:n], &h) {
		return -1
	}
	fd, err := kernel.Dup(f.Fd())
	if err != nil {
		return -1
	}
	return fd
}
