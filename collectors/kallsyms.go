package collectors

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
)

// kernelNames is what names the kernel's functions. Name returns the function
// that an address is in, "" where there is none, without an allocation.
type kernelNames struct {
	table interface{ Name(ip uint64) string }
	// The scheduler's and the locks' own functions, in which every sleeper is:
	// get_wchan leaves them out (in_sched_functions in kernel/sched/core.c).
	sched, locks [2]uint64
}

// kernelNamesShown tells whether the kernel shows its addresses to us.
func kernelNamesShown(proc string) error {
	f, err := os.Open(proc + "/kallsyms")
	if err != nil {
		return fmt.Errorf("read the kernel's symbols: %w", err)
	}
	defer f.Close()
	var b [1024]byte
	n, err := f.Read(b[:])
	if err != nil {
		return fmt.Errorf("read the kernel's symbols: %w", err)
	}
	for line := range bytes.Lines(b[:n]) {
		if at, _, _ := bytes.Cut(line, []byte(" ")); len(bytes.Trim(at, "0")) > 0 {
			return nil
		}
	}
	return errNamesHidden
}

var errNamesHidden = errors.New("the kernel does not show its addresses")

// loadKernelNames reads /proc/kallsyms (kernel/kallsyms.c). It takes some
// 50 ms.
func loadKernelNames(proc string) (*kernelNames, error) {
	f, err := os.Open(proc + "/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("read the kernel's symbols: %w", err)
	}
	defer f.Close()
	k, table := &kernelNames{}, &kallsyms{}
	k.table = table
	type symbol struct {
		at    uint64
		start uint32
		size  uint32
	}
	var symbols []symbol
	for in := bufio.NewScanner(f); in.Scan(); {
		// ffffffff81000000 T name [module]
		at, rest, ok := bytes.Cut(in.Bytes(), []byte(" "))
		kind, name, found := bytes.Cut(rest, []byte(" "))
		if !ok || !found || len(kind) != 1 || !bytes.ContainsAny(kind, "tTwW") {
			continue
		}
		var ip uint64
		for _, c := range at {
			switch {
			case c-'0' <= 9:
				ip = ip<<4 | uint64(c-'0')
			case c-'a' < 6:
				ip = ip<<4 | uint64(c-'a'+10)
			}
		}
		if ip == 0 {
			continue
		}
		if i := bytes.IndexByte(name, '\t'); i >= 0 {
			name = name[:i]
		}
		switch string(name) { // these name no function
		case "__sched_text_start":
			k.sched[0] = ip
			continue
		case "__sched_text_end":
			k.sched[1] = ip
			continue
		case "__lock_text_start", "__spinlock_text_start":
			k.locks[0] = ip
			continue
		case "__lock_text_end", "__spinlock_text_end":
			k.locks[1] = ip
			continue
		}
		if bytes.HasPrefix(name, []byte("__pfx_")) || len(table.names) > 16<<20 {
			continue
		}
		symbols = append(symbols, symbol{ip, uint32(len(table.names)), uint32(len(name))})
		table.names = append(table.names, name...)
	}
	if len(symbols) == 0 {
		return nil, errNamesHidden
	}
	slices.SortStableFunc(symbols, func(a, b symbol) int {
		if a.at < b.at {
			return -1
		}
		if a.at > b.at {
			return 1
		}
		return 0
	})
	// Packed again: a lookup needs little, and what was read for it is garbage.
	names := make([]byte, 0, len(table.names))
	table.at, table.end = make([]uint64, 0, len(symbols)), make([]uint32, 0, len(symbols))
	for i, s := range symbols {
		if i > 0 && symbols[i-1].at == s.at {
			continue // the kernel itself takes the first of those that begin there
		}
		names = append(names, table.names[s.start:s.start+s.size]...)
		table.at, table.end = append(table.at, s.at), append(table.end, uint32(len(names)))
	}
	table.text, table.names = string(names), nil
	return k, nil
}

// kallsyms is a table of functions, sorted.
type kallsyms struct {
	at    []uint64
	end   []uint32 // of the name in text
	text  string
	names []byte // while it is read
}

// Name returns the function that ip is in.
func (k *kallsyms) Name(ip uint64) string {
	i := sort.Search(len(k.at), func(i int) bool { return k.at[i] > ip }) - 1
	if i < 0 {
		return ""
	}
	start := uint32(0)
	if i > 0 {
		start = k.end[i-1]
	}
	return k.text[start:k.end[i]]
}

func (k *kernelNames) scheduler(ip uint64) bool {
	return ip >= k.sched[0] && ip < k.sched[1] || ip >= k.locks[0] && ip < k.locks[1]
}

// appendStack writes a stack as parseStack does that of /proc/PID/stack.
func (k *kernelNames) appendStack(dst []byte, ips []uint64) []byte {
	frames := 0
	for _, ip := range ips {
		if k.scheduler(ip) {
			continue
		}
		// The address is where a call returns to, maybe behind its function.
		name := symbolOf(k.table.Name(ip - 1))
		if name == "" {
			continue
		}
		if frames > 0 {
			dst = append(dst, "<-"...)
		}
		dst = append(dst, name...)
		if frames++; frames == maxFrames {
			break
		}
	}
	return dst
}

// appendWchan writes the function that /proc/PID/wchan names.
func (k *kernelNames) appendWchan(dst []byte, ips []uint64) []byte {
	for _, ip := range ips {
		if !k.scheduler(ip) {
			name := k.table.Name(ip)
			for i := range len(name) {
				if name[i] == ' ' {
					name = name[:i]
					break
				}
			}
			return append(dst, name...)
		}
	}
	return dst
}

// symbolOf cuts off what the compiler and the module add to a name.
func symbolOf(name string) string {
	for i := range len(name) {
		switch name[i] {
		case '.', '+', ' ', '\t':
			return name[:i]
		}
	}
	return name
}
