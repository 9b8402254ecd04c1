package symbols

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
)

const (
	// maxKernelSymbols and maxKernelNames bound the table; a kernel with
	// everything built in has some 250,000 functions with 6 MB of names.
	maxKernelSymbols = 1 << 20
	maxKernelNames   = 32 << 20
	// maxKernelFunction is how long a kernel function may be: an address
	// farther behind the last symbol is not in it.
	maxKernelFunction = 1 << 20
)

// ErrHidden says that the kernel does not show its addresses to us.
var ErrHidden = errors.New("the kernel hides its addresses: run as root with CAP_SYSLOG, and set kernel.kptr_restrict to 0 or 1 (sysctl kernel.kptr_restrict=1)")

// Kernel is the table of the kernel's functions. It never changes.
type Kernel struct {
	names  string   // every name, each behind with a NUL byte
	at     []uint32 // where a function begins, from its range's base; sorted
	name   []uint32 // where its name begins in names
	ranges []kernelRange
	// The functions of the scheduler and of locks, from the first to behind the
	// last: the sections .sched.text and .spinlock.text.
	scheduler, locks [2]uint64
}

// kernelRange is a part of the table whose addresses fit into 32 bits: the
// kernel and its modules are one range; code that BPF made can be far off.
type kernelRange struct {
	base  uint64
	first int // index of its first function
}

// LoadKernel reads /proc/kallsyms (kernel/kallsyms.c) below procRoot. It takes
// some 100 ms of CPU and holds no lock of a stalled task. The error wraps
// ErrHidden where the addresses are not shown.
func LoadKernel(procRoot string) (*Kernel, error) {
	path := procRoot + "/kallsyms"
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w (%w)", err, ErrHidden)
		}
		return nil, fmt.Errorf("read the kernel's symbols: %w", err)
	}
	defer f.Close()
	k, err := ReadKernel(f)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's symbols from %s: %w", path, err)
	}
	return k, nil
}

// kernelSymbol is one line of kallsyms while the table is made.
type kernelSymbol struct {
	at   uint64
	name uint32 // where it begins in the names read
	size uint16
	weak bool
}

// ReadKernel reads a table of the form of /proc/kallsyms: address, type, name,
// and the module in brackets. Only functions are kept, one name an address.
func ReadKernel(r io.Reader) (*Kernel, error) {
	var syms []kernelSymbol
	var names []byte
	var scheduler, locks [2]uint64
	lines, zero := 0, 0
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := readLine(in)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		lines++
		at, kind, name, module, ok := parseKallsyms(line)
		if !ok {
			continue
		}
		if at == 0 {
			zero++
			continue
		}
		switch string(name) {
		case "__sched_text_start":
			scheduler[0] = at
		case "__sched_text_end":
			scheduler[1] = at
		case "__lock_text_start", "__spinlock_text_start":
			locks[0] = at
		case "__lock_text_end", "__spinlock_text_end":
			locks[1] = at
		}
		// Padding before a function, for patching: half of all symbols.
		if bytes.HasPrefix(name, []byte("__pfx_")) {
			continue
		}
		start := len(names)
		names = append(names, name...)
		if len(module) > 0 {
			names = append(names, " ["...)
			names = append(names, module...)
			names = append(names, ']')
		}
		if size := len(names) - start; size > maxName {
			names = names[:start+maxName]
		}
		for i := start; i < len(names); i++ {
			if names[i] < ' ' || names[i] >= 0x7f {
				names[i] = '?'
			}
		}
		syms = append(syms, kernelSymbol{at: at, name: uint32(start), size: uint16(len(names) - start), weak: kind == 'w' || kind == 'W'})
		if len(syms) > maxKernelSymbols || len(names) > maxKernelNames {
			return nil, fmt.Errorf("more than %d functions or %d bytes of names", maxKernelSymbols, maxKernelNames)
		}
	}
	if len(syms) == 0 {
		if zero > 0 {
			return nil, fmt.Errorf("every address is 0: %w", ErrHidden)
		}
		return nil, fmt.Errorf("no function in %d lines: is CONFIG_KALLSYMS set?", lines)
	}
	k := newKernel(syms, names)
	k.scheduler, k.locks = scheduler, locks
	return k, nil
}

// parseKallsyms takes one line apart; ok is false for what is no function.
func parseKallsyms(line []byte) (at uint64, kind byte, name, module []byte, ok bool) {
	i := 0
	for ; i < len(line) && line[i] != ' '; i++ {
		d := unhex(line[i])
		if d > 15 || i == 16 {
			return 0, 0, nil, nil, false
		}
		at = at<<4 | uint64(d)
	}
	if i == 0 || len(line) < i+4 || line[i+2] != ' ' {
		return 0, 0, nil, nil, false
	}
	kind, name = line[i+1], line[i+3:]
	switch kind {
	case 't', 'T', 'w', 'W':
	default:
		return 0, 0, nil, nil, false
	}
	if tab := bytes.IndexByte(name, '\t'); tab >= 0 {
		module = bytes.Trim(name[tab+1:], "[]")
		name = name[:tab]
	}
	return at, kind, name, module, len(name) > 0
}

// unhex returns the value of a hexadecimal digit, or 255.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// newKernel sorts the functions, keeps the best name of each address, and
// packs the rest into as little as lookups need.
func newKernel(syms []kernelSymbol, names []byte) *Kernel {
	text := func(s kernelSymbol) []byte { return names[s.name : s.name+uint32(s.size)] }
	slices.SortStableFunc(syms, func(a, b kernelSymbol) int { return cmp.Compare(a.at, b.at) })
	kept, bytes := syms[:0], 0
	for _, s := range syms {
		if n := len(kept); n > 0 && kept[n-1].at == s.at {
			last := kept[n-1]
			if last.weak && !s.weak || last.weak == s.weak && better(string(text(s)), string(text(last))) {
				bytes += int(s.size) - int(last.size)
				kept[n-1] = s
			}
			continue
		}
		kept = append(kept, s)
		bytes += int(s.size) + 1
	}
	k := &Kernel{at: make([]uint32, len(kept)), name: make([]uint32, len(kept))}
	var b strings.Builder
	b.Grow(bytes)
	for i, s := range kept {
		if n := len(k.ranges); n == 0 || s.at-k.ranges[n-1].base > math.MaxUint32 {
			k.ranges = append(k.ranges, kernelRange{base: s.at, first: i})
		}
		k.at[i] = uint32(s.at - k.ranges[len(k.ranges)-1].base)
		k.name[i] = uint32(b.Len())
		b.Write(text(s))
		b.WriteByte(0)
	}
	k.names = b.String()
	return k
}

// Name returns the function that ip is in, with its module in brackets
// ("ext4_sync_file [ext4]"), or "" where there is none. It allocates nothing:
// the string is a part of the table.
func (k *Kernel) Name(ip uint64) string {
	if k == nil {
		return ""
	}
	r := sort.Search(len(k.ranges), func(i int) bool { return k.ranges[i].base > ip }) - 1
	if r < 0 {
		return ""
	}
	first, end := k.ranges[r].first, len(k.at)
	if r+1 < len(k.ranges) {
		end = k.ranges[r+1].first
	}
	off := ip - k.ranges[r].base
	// The table is not empty in a range: its base is its first function.
	i := first + sort.Search(end-first, func(i int) bool { return uint64(k.at[first+i]) > off }) - 1
	if off-uint64(k.at[i]) >= maxKernelFunction {
		return ""
	}
	name := k.names[k.name[i]:]
	return name[:strings.IndexByte(name, 0)]
}

// Scheduler tells whether ip is in the scheduler or in what takes a lock: where
// every sleeper is innermost, and what /proc/PID/wchan and stack leave out
// (in_sched_functions in kernel/sched/core.c).
func (k *Kernel) Scheduler(ip uint64) bool {
	return k != nil && (ip >= k.scheduler[0] && ip < k.scheduler[1] || ip >= k.locks[0] && ip < k.locks[1])
}

// Len returns how many functions the table has.
func (k *Kernel) Len() int { return len(k.at) }

// Bytes returns what the table keeps in memory.
func (k *Kernel) Bytes() int {
	return len(k.names) + 4*cap(k.at) + 4*cap(k.name) + 16*cap(k.ranges)
}

// readLine returns the next line without its end; of one that does not fit
// into the buffer, the beginning. It is valid until the next call.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		head := bytes.Clone(line[:min(len(line), 4096)])
		for err == bufio.ErrBufferFull {
			_, err = in.ReadSlice('\n')
		}
		line = head
	}
	if err == io.EOF && len(line) > 0 {
		err = nil
	}
	return bytes.TrimRight(line, "\r\n"), err
}
