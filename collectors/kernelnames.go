package collectors

import (
	"bytes"
	"sync"

	"freezeframe/internal/symbols"
)

// kernelNames turns stacks of addresses, as BPF gives them, into the text that
// /proc/PID/stack would have given. What BPF is read by shares one.
type kernelNames struct {
	once  sync.Once
	err   error
	table *symbols.Kernel
	buf   [4096]byte // of one lane: all its users are read on the same one
}

// open reads the kernel's symbols, once.
func (n *kernelNames) open(proc string) error {
	n.once.Do(func() { n.table, n.err = symbols.LoadKernel(proc) })
	return n.err
}

// schedulerFrames is what every sleeper has innermost and nobody asks for.
// /proc leaves out more, the functions that lock among them, which say a lot.
var schedulerFrames = [...]string{
	"__schedule", "schedule", "schedule_timeout", "io_schedule", "io_schedule_timeout", "schedule_preempt_disabled",
	"schedule_hrtimeout_range", "schedule_hrtimeout_range_clock", "schedule_timeout_interruptible", "schedule_timeout_uninterruptible", "schedule_timeout_killable",
	"preempt_schedule", "preempt_schedule_common", "__cond_resched", "preempt_schedule_irq", "schedule_rtlock",
}

// interruptFrames begin what an interrupt does: below them the thread that it
// came upon has no part in it.
var interruptFrames = [...]string{
	"asm_common_interrupt", "common_interrupt", "asm_sysvec_", "sysvec_", "el1h_64_irq", "el0t_64_irq", "el1_interrupt", "el0_interrupt", "gic_handle_irq",
	"run_ksoftirqd",
}

// text writes a stack as "innermost<-next": the symbols alone. The text is
// valid until the next call.
func (n *kernelNames) text(stack []uint64) []byte {
	dst := n.buf[:0]
	if n.table == nil {
		return dst
	}
	frames, first := 0, true
	for i, ip := range stack {
		if i > 0 {
			ip-- // it is where the call returns to, which may be the next function's begin
		}
		name := bare(n.table.Name(ip))
		if name == "" || first && among(schedulerFrames[:], name) {
			continue
		}
		first = false
		if frames >= maxFrames || len(dst)+len(name)+2 > len(n.buf) {
			break
		}
		if frames > 0 {
			dst = append(dst, "<-"...)
		}
		dst = append(dst, name...)
		frames++
	}
	return dst
}

// interrupted tells whether the stack is that of an interrupt.
func (n *kernelNames) interrupted(stack []uint64) bool {
	if n.table == nil {
		return false
	}
	for _, ip := range stack {
		name := n.table.Name(ip)
		for _, f := range interruptFrames {
			if len(name) >= len(f) && name[:len(f)] == f {
				return true
			}
		}
	}
	return false
}

// innermost is the first function of a stack's text.
func innermost(text []byte) []byte {
	if i := bytes.Index(text, []byte("<-")); i >= 0 {
		return text[:i]
	}
	return text
}

// bare cuts what the compiler and the module loader add to a name.
func bare(name string) string {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c == '.' && i > 0 || c == ' ' || c == '+' {
			return name[:i]
		}
	}
	return name
}

func among(list []string, name string) bool {
	for _, s := range list {
		if s == name {
			return true
		}
	}
	return false
}
