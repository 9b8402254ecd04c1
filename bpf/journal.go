package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"github.com/cilium/ebpf/btf"
)

var journalFamily = family{
	name: "journal",
	at:   "tp_btf jbd2_start_commit, jbd2_end_commit, jbd2_handle_stats and others of jbd2",
	lost: "when ext4's journal was committed, how long each phase took, and who filled it",
	load: loadJournalFamily,
}

// Commit is struct commit of journal.bpf.c. Moments are CLOCK_MONOTONIC
// nanoseconds; a phase that it did not come to is 0.
type Commit struct {
	Began, Locking, Flushing, Logging, Ended uint64
	Dev, TID                                 uint32 // of the filesystem's device, major<<20|minor; of the transaction
	Handles, Blocks, Logged                  uint32
	RequestDelay                             uint32 // jiffies
}

// Journal is struct journal: what one filesystem's journal does.
type Journal struct {
	Dev                   uint32 // 0: a free slot
	Checkpointer          uint32 // process that last had to make room in it
	Now                   Commit // Began 0: none is under way
	Commits, CommitNanos  uint64
	Checkpoints           uint64
	CheckpointerCommBytes [16]byte
}

// JournalUser is struct user: what one process changed of one filesystem.
type JournalUser struct {
	Dev, TGID              uint32
	LastNanos              uint64 // 0: a free slot
	Handles, Syncs, Blocks uint64 // Blocks: of metadata, changed
	CommBytes              [16]byte
}

// Comm is the process's name.
func (u *JournalUser) Comm() []byte { return cstring(u.CommBytes[:]) }

// CheckpointerComm is the name of the process that last made room.
func (j *Journal) CheckpointerComm() []byte { return cstring(j.CheckpointerCommBytes[:]) }

type journalState struct {
	journals [64]Journal
	users    [512]JournalUser
	lost     uint64
}

// Journals reads what journal.bpf.c tells. Drain is for one goroutine.
type Journals struct {
	objects journalObjects
	ring    *Ring
	state   slots[journalState]
}

func loadJournalFamily(l *loading) error {
	spec, err := loadJournal()
	if err != nil {
		return fmt.Errorf("read the object of journal: %w", err)
	}
	types := l.kernel
	if arguments(types, "jbd2_end_commit") < 0 {
		// jbd2 may be a module, which is loaded when the first ext4 is mounted.
		types, err = btf.LoadKernelModuleSpec("jbd2")
		if errors.Is(err, fs.ErrNotExist) && !usesExt4() {
			return errUnused
		}
		if err != nil {
			return fmt.Errorf("types of the module jbd2: %w", err)
		}
		l.more = append(l.more, types)
	}
	if lacks := attachable(spec, types); len(lacks) > 0 {
		return fmt.Errorf("this kernel has no tracepoint %s", lacks[0])
	}
	j := &Journals{}
	if err := l.collection(spec, nil, &j.objects); err != nil {
		return err
	}
	if j.ring, err = NewRing(j.objects.Commits); err != nil {
		return err
	}
	l.closing(j.ring)
	if j.state, err = mapSlots[journalState](j.objects.States); err != nil {
		return err
	}
	l.closing(&j.state)
	l.count = j.Lost
	o := &j.objects
	if err := l.trace(o.EndCommit, o.RunStats, o.CommitLogging, o.CommitFlushing, o.CommitLocking, o.StartCommit, o.Checkpoint, o.HandleStats); err != nil {
		return err
	}
	l.Journal = j
	return nil
}

// usesExt4 tells whether a filesystem with such a journal is mounted.
func usesExt4() bool {
	b, err := os.ReadFile("/proc/self/mounts")
	return err != nil || bytes.Contains(b, []byte(" ext4 ")) || bytes.Contains(b, []byte(" ext3 "))
}

// Devices returns the journals' slots, the free ones too.
func (j *Journals) Devices() []Journal { return j.state.values[0].journals[:] }

// Users returns the slots of who changed a filesystem of late.
func (j *Journals) Users() []JournalUser { return j.state.values[0].users[:] }

// Lost returns how many commits and handles were left out.
func (j *Journals) Lost() uint64 { return j.state.values[0].lost }

// Drain calls f with the commits that ended, oldest first, at most the given
// number; the record is only valid during the call.
func (j *Journals) Drain(most int, f func(*Commit)) int {
	return j.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Commit{})) {
			f((*Commit)(unsafe.Pointer(&b[0])))
		}
	})
}
