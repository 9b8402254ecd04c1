package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	journalDev = iota
	journalCommitted
	journalCommitNS
	journalCheckpoints
	journalCheckpointPID
	journalCheckpointComm
	journalUnderWay
	journalWidth
)

// journal reads, by BPF, what the journal of each ext4 does.
type journal struct {
	from  *bpf.Journals
	texts freezeframe.Texts
}

func (c *journal) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "journal", From: "BPF: jbd2_start_commit, jbd2_end_commit, jbd2_checkpoint", Key: "record",
		Every: 500 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: append(gauges("dev"), counters("commits", "commit_ns", "checkpoints")...),
	}
	s.Columns = append(s.Columns, gauges("checkpoint_pid", "checkpoint_comm", "under_way_ns")...)
	s.Columns[journalCheckpointComm].Kind = freezeframe.Text
	return s
}

func (c *journal) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("journals by BPF: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	return nil
}

func (c *journal) Close() error { return nil }

func (c *journal) Collect(t *freezeframe.Table) error {
	all := c.from.Devices()
	for i := range all {
		j := &all[i]
		if j.Dev == 0 {
			continue
		}
		row := t.Row(freezeframe.Key(j.Dev), journalWidth)
		row[journalDev] = uint64(j.Dev)
		row[journalCommitted], row[journalCommitNS], row[journalCheckpoints] = j.Commits, j.CommitNanos, j.Checkpoints
		if j.Checkpointer != 0 {
			row[journalCheckpointPID], row[journalCheckpointComm] = uint64(j.Checkpointer), c.texts.Intern(j.CheckpointerComm())
		}
		row[journalUnderWay] = since(j.Now.Began, t.At)
	}
	return nil
}

const (
	commitDev = iota
	commitTID
	commitBegan
	commitEnded
	commitLocking
	commitFlushing
	commitLogging
	commitHandles
	commitBlocks
	commitLogged
	commitWidth
)

// journalCommits reads, by BPF, each commit of an ext4's journal.
type journalCommits struct {
	from  *bpf.Journals
	count uint64
	table *freezeframe.Table
	add   func(*bpf.Commit)
}

func (c *journalCommits) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "journal_commits", From: "BPF: jbd2_start_commit, jbd2_commit_locking, jbd2_commit_flushing, jbd2_commit_logging, jbd2_end_commit, jbd2_run_stats", Key: "record",
		Every: 500 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		// The phases follow each other; their lengths add up to the commit's.
		Columns: gauges("dev", "transaction", "began", "ended", "locking_ns", "flushing_ns", "logging_ns", "handles", "blocks", "logged_blocks"),
	}
}

func (c *journalCommits) Open(freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("commits of journals by BPF: %w", freezeframe.ErrNotHere)
	}
	c.add = func(x *bpf.Commit) {
		c.count++
		row := c.table.Row(freezeframe.Key(c.count), commitWidth)
		row[commitDev], row[commitTID] = uint64(x.Dev), uint64(x.TID)
		row[commitBegan], row[commitEnded] = x.Began, x.Ended
		if x.Began <= x.Flushing && x.Flushing <= x.Logging && x.Logging <= x.Ended {
			row[commitLocking], row[commitFlushing], row[commitLogging] = x.Flushing-x.Began, x.Logging-x.Flushing, x.Ended-x.Logging
		}
		row[commitHandles], row[commitBlocks], row[commitLogged] = uint64(x.Handles), uint64(x.Blocks), uint64(x.Logged)
	}
	return nil
}

func (c *journalCommits) Close() error { return nil }

func (c *journalCommits) Collect(t *freezeframe.Table) error {
	c.table = t
	c.from.Drain(recordsMost, c.add)
	return nil
}

const (
	journalUserDev = iota
	journalUserPID
	journalUserComm
	journalUserHandles
	journalUserSyncs
	journalUserBlocks
	journalUserWidth
)

// journalUsers reads, by BPF, what each process changed of an ext4's metadata.
type journalUsers struct {
	from  *bpf.Journals
	texts freezeframe.Texts
}

func (c *journalUsers) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "journal_users", From: "BPF: jbd2_handle_stats", Key: "issuer",
		Every: time.Second, Stalled: 100 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: append(gauges("dev", "pid", "comm"), counters("handles", "syncs", "blocks")...),
	}
	s.Columns[journalUserComm].Kind = freezeframe.Text
	return s
}

func (c *journalUsers) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("who changes filesystems, by BPF: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	return nil
}

func (c *journalUsers) Close() error { return nil }

func (c *journalUsers) Collect(t *freezeframe.Table) error {
	all := c.from.Users()
	for i := range all {
		u := &all[i]
		if u.LastNanos == 0 || since(u.LastNanos, t.At) > uint64(issuerQuiet) {
			continue
		}
		row := t.Row(freezeframe.Key(u.Dev)<<32|freezeframe.Key(u.TGID), journalUserWidth)
		row[journalUserDev], row[journalUserPID], row[journalUserComm] = uint64(u.Dev), uint64(u.TGID), c.texts.Intern(u.Comm())
		row[journalUserHandles], row[journalUserSyncs], row[journalUserBlocks] = u.Handles, u.Syncs, u.Blocks
	}
	return nil
}
