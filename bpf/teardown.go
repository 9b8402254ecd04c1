package bpf

import (
	"fmt"
	"unsafe"

	"freezeframe"
)

var teardownFamily = family{
	name: "teardown",
	at:   "tp_btf sched_process_exit, exit_mmap",
	lost: "how long the memory of a process that ended took to be given back",
	load: loadTeardownFamily,
}

// Teardown is struct teardown of teardown.bpf.c: the memory of a process that
// ended. Moments are CLOCK_MONOTONIC nanoseconds.
type Teardown struct {
	Began, Ended uint64 // Began 0: this kernel does not tell (before Linux 6.16)
	Pages        uint64 // resident when it began; where that is not told, at most in its life
	TGID, By     uint32 // By: who gave it back, mostly the process itself
	CommBytes    [16]byte
}

// Comm is the process's name.
func (t *Teardown) Comm() []byte { return cstring(t.CommBytes[:]) }

// Teardowns reads what teardown.bpf.c tells. It is for one goroutine.
type Teardowns struct {
	objects teardownObjects
	ring    *Ring
}

func loadTeardownFamily(l *loading) error {
	spec, err := loadTeardown()
	if err != nil {
		return fmt.Errorf("read the object of teardown: %w", err)
	}
	for _, name := range attachable(spec, l.kernel) {
		if name != "exit_mmap" {
			return fmt.Errorf("this kernel has no tracepoint %s", name)
		}
	}
	if arguments(l.kernel, "sched_process_exit") < 2 || arguments(l.kernel, "exit_mmap") < 0 {
		l.need(freezeframe.Need{
			What: "BPF tracepoint sched_process_exit before a process's memory is given back", Lost: "when the teardown of a large process began; its end and size are told",
			Fix: "Linux 6.16 or newer", Err: "this kernel tells of the exit afterwards",
		})
	}
	t := &Teardowns{}
	if err := l.collection(spec, nil, &t.objects); err != nil {
		return err
	}
	if t.ring, err = NewRing(t.objects.Teardowns); err != nil {
		return err
	}
	l.closing(t.ring)
	if err := l.trace(t.objects.Unmapped, t.objects.Exited); err != nil {
		return err
	}
	l.Teardown = t
	return nil
}

// Drain calls f with what is new, at most the given number; the record is only
// valid during the call.
func (t *Teardowns) Drain(most int, f func(*Teardown)) int {
	return t.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Teardown{})) {
			f((*Teardown)(unsafe.Pointer(&b[0])))
		}
	})
}
