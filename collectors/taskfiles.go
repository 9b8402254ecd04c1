package collectors

import (
	"bytes"

	"freezeframe/internal/kernel"
)

const (
	pfKthread = 0x00200000 // PF_KTHREAD, in the flags of /proc/PID/stat

	syscallRunning = -1 // on a CPU, or asleep outside of any system call
	syscallUnknown = -2

	maxFrames = 12
)

// taskStat is /proc/PID/stat and /proc/PID/task/TID/stat (proc_pid_stat(5)).
// Times are in ticks, sizes in the file's own units.
type taskStat struct {
	state                        byte
	ppid, tty, threads           int64
	flags                        uint64
	minflt, majflt               uint64
	utime, stime, cutime, cstime uint64
	nice                         int64
	start                        uint64
	vsizeBytes, rssPages         uint64
	startStack                   uint64
	cpu, rtPriority, policy      uint64
	blkio                        uint64
}

// parseTaskStat fills s and returns the name, which may hold anything,
// parentheses and newlines included. ok is false when a field is missing.
func parseTaskStat(b []byte, s *taskStat) (comm []byte, ok bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open || end+2 >= len(b) || b[len(b)-1] != '\n' {
		return nil, false
	}
	sc := kernel.Scan(b[end+1:])
	state := sc.Word()
	if len(state) != 1 {
		return nil, false
	}
	all := true
	signed := func() int64 { v, ok := sc.Int(); all = all && ok; return v }
	unsigned := func() uint64 { v, ok := sc.Uint(); all = all && ok; return v }
	*s = taskStat{state: state[0], ppid: signed()}
	sc.Skip(2) // pgrp session
	s.tty = signed()
	sc.Skip(1) // tpgid
	s.flags = unsigned()
	s.minflt = unsigned()
	sc.Skip(1) // cminflt
	s.majflt = unsigned()
	sc.Skip(1) // cmajflt
	s.utime, s.stime = unsigned(), unsigned()
	s.cutime, s.cstime = uint64(max(signed(), 0)), uint64(max(signed(), 0))
	sc.Skip(1) // priority
	s.nice, s.threads = signed(), signed()
	sc.Skip(1) // itrealvalue
	s.start, s.vsizeBytes = unsigned(), unsigned()
	s.rssPages = uint64(max(signed(), 0))
	sc.Skip(3) // rsslim startcode endcode
	s.startStack = unsigned()
	sc.Skip(10) // kstkesp kstkeip signal blocked sigignore sigcatch wchan nswap cnswap exit_signal
	cpu := signed()
	s.cpu = uint64(max(cpu, 0))
	s.rtPriority, s.policy, s.blkio = unsigned(), unsigned(), unsigned()
	return b[open+1 : end], all
}

// parseSchedstat reads /proc/PID/schedstat: nanoseconds on a CPU, nanoseconds
// waiting for one, and how often it got one.
func parseSchedstat(b []byte) (run, wait, timeslices uint64, ok bool) {
	s := kernel.Scan(b)
	run, _ = s.Uint()
	wait, _ = s.Uint()
	timeslices, ok = s.Uint()
	return run, wait, timeslices, ok && s.EndOfLine() && s.More()
}

// taskStatus is what is read of /proc/PID/status.
type taskStatus struct {
	tgid                            uint64
	uid, tracer, coredumping, nspid uint64
	swapBytes                       uint64
	voluntary, involuntary          uint64
	allowed                         []byte // Cpus_allowed_list
}

// parseTaskStatus reads the lines that b has whole. The name in the first line
// is escaped by the kernel, so that it cannot pose as another line.
func parseTaskStatus(b []byte, s *taskStatus) {
	*s = taskStatus{}
	for sc := kernel.Scan(wholeLines(b)); sc.More(); sc.NextLine() {
		switch word := sc.Word(); string(word) {
		case "Tgid:":
			s.tgid, _ = sc.Uint()
		case "Uid:":
			sc.Skip(1) // the real one; the effective one tells whose rights it has
			s.uid, _ = sc.Uint()
		case "TracerPid:":
			s.tracer, _ = sc.Uint()
		case "CoreDumping:":
			s.coredumping, _ = sc.Uint()
		case "VmSwap:":
			kb, _ := sc.Uint()
			s.swapBytes = kb << 10
		case "NSpid:":
			for !sc.EndOfLine() {
				v, ok := sc.Uint()
				if !ok {
					break
				}
				s.nspid = v
			}
		case "Cpus_allowed_list:":
			s.allowed = sc.Word()
		case "voluntary_ctxt_switches:":
			s.voluntary, _ = sc.Uint()
		case "nonvoluntary_ctxt_switches:":
			s.involuntary, _ = sc.Uint()
		}
	}
}

// parseIO reads /proc/PID/io into a process; a line that is cut is left out.
func parseIO(b []byte, p *process) {
	for sc := kernel.Scan(wholeLines(b)); sc.More(); sc.NextLine() {
		var to *uint64
		switch word := sc.Word(); string(word) {
		case "syscw:":
			to = &p.syscw
		case "read_bytes:":
			to = &p.readBytes
		case "write_bytes:":
			to = &p.writeBytes
		case "cancelled_write_bytes:":
			to = &p.cancelledWriteBytes
		default:
			continue
		}
		if v, ok := sc.Uint(); ok {
			*to = v
		}
	}
}

// parseLimits returns the soft limits of open files and of processes of its user
// from /proc/PID/limits, 0 for one that there is not.
func parseLimits(b []byte) (files, processes uint64) {
	for sc := kernel.Scan(wholeLines(b)); sc.More(); {
		line := sc.Line()
		if rest, ok := bytes.CutPrefix(line, []byte("Max open files")); ok {
			words := kernel.Scan(rest)
			files, _ = words.Uint()
		} else if rest, ok := bytes.CutPrefix(line, []byte("Max processes")); ok {
			words := kernel.Scan(rest)
			processes, _ = words.Uint()
		}
	}
	return files, processes
}

// parseSyscall reads /proc/PID/syscall: the number and the first argument.
func parseSyscall(b []byte) (number int64, arg0 uint64) {
	s := kernel.Scan(b)
	if word := s.Word(); string(word) == "running" {
		return syscallRunning, 0
	}
	s = kernel.Scan(b)
	number, ok := s.Int()
	if !ok || number < -1 {
		return syscallUnknown, 0
	}
	if number == -1 {
		return syscallRunning, 0
	}
	arg0, ok = hexWord(s.Word())
	if !ok {
		return syscallUnknown, 0
	}
	return number, arg0
}

// hexWord reads "0x7f00".
func hexWord(word []byte) (v uint64, ok bool) {
	if len(word) < 3 || string(word[:2]) != "0x" {
		return 0, false
	}
	for _, c := range word[2:] {
		switch {
		case c-'0' <= 9:
			v = v<<4 | uint64(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			v = v<<4 | uint64(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// parseStack writes /proc/PID/stack to dst as "innermost<-next": the symbols
// alone, without offsets, compiler suffixes and module names.
func parseStack(dst, b []byte) []byte {
	frames := 0
	for sc := kernel.Scan(b); sc.More() && frames < maxFrames; {
		line := sc.Line()
		// [<0>] symbol+0x1/0x2 [module]
		i := bytes.Index(line, []byte("] "))
		if i < 0 {
			continue
		}
		symbol := line[i+2:]
		if end := bytes.IndexAny(symbol, "+. \t"); end >= 0 {
			symbol = symbol[:end]
		}
		if len(symbol) == 0 || string(symbol[:min(2, len(symbol))]) == "0x" {
			continue
		}
		if frames > 0 {
			dst = append(dst, "<-"...)
		}
		dst = append(dst, symbol...)
		frames++
	}
	return dst
}
