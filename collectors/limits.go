package collectors

import (
	"bytes"
	"errors"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	limitsFilesAllocated = iota
	limitsFilesMax
	limitsThreads
	limitsThreadsMax
	limitsPIDMax
	limitsConntrackCount
	limitsConntrackMax
	limitsConntrackDrop
	limitsConntrackInsertFailed
	limitsPortLow
	limitsPortHigh
	limitsNeighEntries
	limitsNeighTableFulls
	limitsTCPMemPressure
	limitsTCPMemMax
	limitsMapCountMax
	limitsOvercommit
	limitsWidth
)

// limitFile is one file of limits. Those of conntrack may appear and vanish
// with its module, so what is not open is tried again at each reading.
type limitFile struct {
	path  string
	parse func(row []uint64, b []byte) bool
	lost  string // what cannot be told without the file
	fix   string
}

var limitFiles = [...]limitFile{
	{"sys/fs/file-nr", parseFileNr, "whether the machine is out of file handles", ""},
	{"loadavg", parseLoadavgThreads, "how many threads there are", ""},
	{"sys/kernel/threads-max", into(limitsThreadsMax), "how many threads the machine allows", ""},
	{"sys/kernel/pid_max", into(limitsPIDMax), "how many pids the machine allows", ""},
	{"sys/net/ipv4/ip_local_port_range", parsePortRange, "whether outgoing connections run out of ports", ""},
	{"sys/net/ipv4/tcp_mem", parseTCPMem, "whether TCP is out of memory for its buffers", ""},
	{"sys/vm/max_map_count", into(limitsMapCountMax), "how many memory maps a process may have", ""},
	{"sys/vm/overcommit_memory", into(limitsOvercommit), "whether memory is refused before it is used up", ""},
	{"net/stat/arp_cache", parseNeighbours, "whether the table of neighbours (ARP) is full", ""},
	{"net/stat/ndisc_cache", parseNeighbours, "whether the table of IPv6 neighbours is full", ""},
	{"sys/net/netfilter/nf_conntrack_count", into(limitsConntrackCount), "how full the table of tracked connections is", conntrackFix},
	{"sys/net/netfilter/nf_conntrack_max", into(limitsConntrackMax), "how full the table of tracked connections is", conntrackFix},
	{"net/stat/nf_conntrack", parseConntrack, "whether packets were dropped because the table of tracked connections was full", conntrackFix},
}

const conntrackFix = "none needed while connection tracking (module nf_conntrack) is not in use; it is picked up when it is loaded"

// limits reads the machine's own limits and, where no other source has it, how
// far each is used up: file handles, threads, tracked connections, local ports,
// neighbours, memory of TCP, memory maps, overcommit.
type limits struct {
	files [len(limitFiles)]file
	needs []freezeframe.Need
}

func (c *limits) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name:  "limits",
		From:  "/proc/sys/fs/file-nr, /proc/loadavg, /proc/sys/kernel/{threads-max,pid_max}, /proc/sys/vm/{max_map_count,overcommit_memory}, /proc/sys/net/{ipv4/{ip_local_port_range,tcp_mem},netfilter/nf_conntrack_*}, /proc/net/stat/{nf_conntrack,arp_cache,ndisc_cache}",
		Every: time.Second, Stalled: 250 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: gauges("files_allocated", "files_max", "threads", "threads_max", "pid_max",
			"conntrack_count", "conntrack_max", "conntrack_drop", "conntrack_insert_failed",
			"port_low", "port_high", "neigh_entries", "neigh_table_fulls",
			"tcp_mem_pressure_pages", "tcp_mem_max_pages", "max_map_count", "overcommit_memory"),
		Needs: c.needs,
	}
	for _, i := range [...]int{limitsConntrackDrop, limitsConntrackInsertFailed, limitsNeighTableFulls} {
		s.Columns[i].Kind = freezeframe.Counter
	}
	return s
}

func (c *limits) Open(h freezeframe.Host) error {
	c.needs = nil
	var errs []error
	for i, l := range limitFiles {
		path := h.Proc + "/" + l.path
		f, err := kernel.NewFile(path, 512)
		if err == nil {
			c.files[i] = file{f, malformed(path)}
			if err = f.Open(); err == nil {
				var row [limitsWidth]uint64
				err = c.read(i, row[:])
			}
		}
		if err != nil {
			c.needs = append(c.needs, freezeframe.Need{What: "read " + path, Lost: l.lost, Fix: l.fix, Err: err.Error()})
			errs = append(errs, err)
		}
	}
	if len(errs) == len(limitFiles) {
		c.Close()
		return errors.Join(append(errs, freezeframe.ErrNotHere)...)
	}
	return nil
}

func (c *limits) Close() error {
	var errs []error
	for i := range c.files {
		errs = append(errs, c.files[i].Close())
	}
	return errors.Join(errs...)
}

func (c *limits) Collect(t *freezeframe.Table) (failed error) {
	row := t.Row(0, limitsWidth)
	for i := range c.files {
		if c.files[i].File == nil || c.files[i].Open() != nil {
			continue // a Need, or of a module that is not loaded
		}
		if err := c.read(i, row); err != nil {
			failed = err // the others are still worth having
		}
	}
	return failed
}

func (c *limits) read(i int, row []uint64) error {
	f := c.files[i]
	b, err := f.lines()
	if kernel.IsGone(err) {
		f.Close() // the module was removed: look for it anew
		return nil
	}
	if err != nil {
		return err
	}
	if !limitFiles[i].parse(row, b) {
		return f.malformed
	}
	return nil
}

// into returns a parser of a file that holds one number.
func into(column int) func([]uint64, []byte) bool {
	return func(row []uint64, b []byte) (ok bool) {
		s := kernel.Scan(b)
		row[column], ok = s.Uint()
		return ok
	}
}

// parseFileNr reads "allocated 0 maximum".
func parseFileNr(row []uint64, b []byte) bool {
	s := kernel.Scan(b)
	allocated, _ := s.Uint()
	s.Word()
	maximum, ok := s.Uint()
	row[limitsFilesAllocated], row[limitsFilesMax] = allocated, maximum
	return ok
}

// parseLoadavgThreads reads the total of "0.23 0.11 0.04 1/96 8955": all
// threads of the machine.
func parseLoadavgThreads(row []uint64, b []byte) bool {
	s := kernel.Scan(b)
	s.Skip(3)
	_, total, _ := bytes.Cut(s.Word(), []byte("/"))
	n, ok := kernel.Uint(total)
	row[limitsThreads] = n
	return ok
}

func parsePortRange(row []uint64, b []byte) bool {
	s := kernel.Scan(b)
	low, _ := s.Uint()
	high, ok := s.Uint()
	row[limitsPortLow], row[limitsPortHigh] = low, high
	return ok
}

// parseTCPMem reads "low pressure high", in pages (Documentation/networking/ip-sysctl.rst).
func parseTCPMem(row []uint64, b []byte) bool {
	s := kernel.Scan(b)
	s.Word()
	pressure, _ := s.Uint()
	high, ok := s.Uint()
	row[limitsTCPMemPressure], row[limitsTCPMemMax] = pressure, high
	return ok
}

// parseNeighbours adds up ARP and its IPv6 sister.
func parseNeighbours(row []uint64, b []byte) bool {
	entries, fulls := cpuTable{b, "entries"}, cpuTable{b, "table_fulls"}
	n, ok := entries.first()
	row[limitsNeighEntries] += n
	row[limitsNeighTableFulls] += fulls.sum() // absent before Linux 3.15: 0
	return ok
}

func parseConntrack(row []uint64, b []byte) bool {
	drop, insertFailed, entries := cpuTable{b, "drop"}, cpuTable{b, "insert_failed"}, cpuTable{b, "entries"}
	row[limitsConntrackDrop], row[limitsConntrackInsertFailed] = drop.sum(), insertFailed.sum()
	_, ok := entries.first()
	return ok
}

// cpuTable is one column of a file of /proc/net/stat: a line of names, then a
// line of hexadecimal numbers a CPU. "entries" is not per CPU: each line
// repeats the same total.
type cpuTable struct {
	b    []byte
	name string
}

func (c cpuTable) first() (uint64, bool) {
	v, lines := c.read(1)
	return v, lines > 0
}

func (c cpuTable) sum() uint64 {
	v, _ := c.read(1 << 30)
	return v
}

// read adds up the column over at most so many lines, and returns how many had
// it.
func (c cpuTable) read(most int) (sum uint64, lines int) {
	s := kernel.Scan(c.b)
	column := 0
	for ; string(s.Word()) != c.name; column++ {
		if s.EndOfLine() {
			return 0, 0
		}
	}
	for s.NextLine(); s.More() && lines < most; s.NextLine() {
		s.Skip(column)
		v, ok := s.Hex()
		if !ok {
			continue
		}
		sum += v
		lines++
	}
	return sum, lines
}
