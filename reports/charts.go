package reports

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"freezeframe"
	"freezeframe/collectors"
)

// maxPoints is how many points a chart's series has at most.
const maxPoints = 1200

// charted lists what the page gets of the window: which sources, which columns
// of them (nil: all that are numbers), and how many keys, those with the most
// in the named column first.
var charted = []struct {
	source  string
	columns []string
	keys    int
	by      string
}{
	{source: "stat", keys: 1},
	{source: "pressure", keys: 8, by: "some_us"},
	{source: "meminfo", keys: 1, columns: []string{"mem_total_bytes", "mem_free_bytes", "mem_available_bytes", "cached_bytes", "anon_bytes", "dirty_bytes", "writeback_bytes", "swap_total_bytes", "swap_free_bytes", "slab_unreclaimable_bytes"}},
	{source: "vmstat", keys: 1, columns: []string{"pgpgin", "pgpgout", "pswpin", "pswpout", "pgmajfault", "pgscan_kswapd", "pgscan_direct", "allocstall"}},
	{source: "diskstats", keys: 4, by: "io_us", columns: []string{"reads", "read_bytes", "read_us", "writes", "write_bytes", "write_us", "in_flight", "io_us", "flushes"}},
	{source: "netdev", keys: 4, by: "rx_packets", columns: []string{"rx_bytes", "rx_packets", "rx_drop", "tx_bytes", "tx_packets", "tx_drop"}},
	{source: "netstat", keys: 1, columns: []string{"TcpRetransSegs", "TcpExtListenOverflows", "TcpExtListenDrops", "TcpExtTCPTimeouts"}},
	{source: "listeners", keys: 8, by: "queue", columns: []string{"queue", "backlog", "drops"}},
	{source: "softnet", keys: 4, by: "processed", columns: []string{"processed", "dropped", "time_squeeze"}},
	{source: "jvm", keys: 4, by: "gc_us", columns: []string{"in_safepoint", "in_gc", "gc_us", "safepoint_us", "heap_used_bytes"}},
	{source: "cgroups", keys: 6, by: "cpu_throttled_us", columns: []string{"cpu_usage_us", "cpu_throttled_us", "memory_bytes", "memory_max_bytes"}},
	{source: "fuse", keys: 4, by: "waiting", columns: []string{"waiting"}},
	{source: "self", keys: 1, columns: []string{"cpu_us", "rss_bytes"}},
}

// chartSource is the readings of one source in the form charts take: one list
// of moments and one list of values a series, null where a key was not read.
type chartSource struct {
	Source string        `json:"source"`
	At     []float64     `json:"at"` // seconds from the start of the stall
	Series []chartSeries `json:"series"`
}

// chartSeries is one column of one key. A counter is given as its growth per
// second since the reading before.
type chartSeries struct {
	Key    string     `json:"key"`
	Column string     `json:"column"`
	Rate   bool       `json:"rate"`
	Values []*float64 `json:"values"`
}

func chartSources(w freezeframe.Window) []chartSource {
	out := []chartSource{}
	for _, c := range charted {
		s := w.Phase(c.source, freezeframe.Whole)
		if len(s.Tables) < 2 {
			continue
		}
		cs := chartSource{Source: c.source, At: make([]float64, len(s.Tables))}
		for i := range s.Tables {
			cs.At[i] = math.Round(s.Tables[i].At.Sub(w.Stall().Start).Seconds()*1e4) / 1e4
		}
		for _, key := range chartKeys(&s, c.keys, c.by) {
			for i, column := range s.Source.Columns {
				if column.Kind == freezeframe.Text || c.columns != nil && !slices.Contains(c.columns, column.Name) {
					continue
				}
				series := chartSeries{Key: keyLabel(w, &s, key), Column: column.Name, Rate: column.Kind == freezeframe.Counter, Values: values(&s, key, i)}
				if moved(series.Values) {
					cs.Series = append(cs.Series, series)
				}
			}
		}
		if len(cs.Series) > 0 {
			out = append(out, downsample(cs))
		}
	}
	return out
}

// moved tells whether a series has anything but zeros.
func moved(values []*float64) bool {
	return slices.ContainsFunc(values, func(v *float64) bool { return v != nil && *v != 0 })
}

// chartKeys picks the keys to show: the sum of all CPUs alone where there is
// one, else those with the most in the column by.
func chartKeys(s *freezeframe.Series, most int, by string) []freezeframe.Key {
	keys := s.Keys()
	if slices.Contains(keys, freezeframe.AllCPUs) {
		return []freezeframe.Key{freezeframe.AllCPUs}
	}
	if c := s.Source.Column(by); c >= 0 {
		amount := make(map[freezeframe.Key]uint64)
		if s.Source.Columns[c].Kind == freezeframe.Counter {
			for _, a := range s.Top(by) {
				amount[a.Key] = a.Value
			}
		} else {
			width := len(s.Source.Columns)
			for t := range s.Tables {
				for r, k := range s.Tables[t].Keys {
					amount[k] = max(amount[k], s.Tables[t].Values(r, width)[c])
				}
			}
		}
		slices.SortStableFunc(keys, func(a, b freezeframe.Key) int { return cmp.Compare(amount[b], amount[a]) })
	}
	return keys[:min(len(keys), most)]
}

// keyLabel is what a chart calls a key.
func keyLabel(w freezeframe.Window, s *freezeframe.Series, key freezeframe.Key) string {
	text := func(column string) string {
		if v, ok := s.Last(key, column); ok {
			return w.Text(v)
		}
		return ""
	}
	switch s.Source.Key {
	case "":
		return ""
	case "cpu":
		if key == freezeframe.AllCPUs {
			return "all CPUs"
		}
		return fmt.Sprintf("CPU %d", key)
	case "text":
		return cmp.Or(w.Text(uint64(key)), strconv.FormatUint(uint64(key), 16))
	case "task":
		return fmt.Sprintf("%s (%d)", cmp.Or(text("comm"), "pid"), key.TID())
	}
	return cmp.Or(text("address"), text("mountpoint"), strconv.FormatUint(uint64(key), 10))
}

// values returns one value a table: a gauge as it is, a counter as its growth
// per second; nil where the key was not read.
func values(s *freezeframe.Series, key freezeframe.Key, column int) []*float64 {
	width := len(s.Source.Columns)
	out := make([]*float64, len(s.Tables))
	counter := s.Source.Columns[column].Kind == freezeframe.Counter
	var last uint64
	var at freezeframe.Instant
	have := false
	for i := range s.Tables {
		t := &s.Tables[i]
		r := slices.Index(t.Keys, key)
		if r < 0 {
			continue
		}
		v := t.Values(r, width)[column]
		f := float64(int64(v)) // a negative level is two's complement
		if counter {
			seconds := t.At.Sub(at).Seconds()
			if !have || v < last || seconds <= 0 {
				last, at, have = v, t.At, true
				continue
			}
			f = float64(v-last) / seconds
			last, at = v, t.At
		}
		f = round(f)
		out[i] = &f
	}
	return out
}

// round keeps four significant digits below 1000 and whole numbers above: the
// page shows no more, and the file stays small.
func round(f float64) float64 {
	switch a := math.Abs(f); {
	case a >= 1000:
		return math.Round(f)
	case a >= 10:
		return math.Round(f*10) / 10
	}
	return math.Round(f*1000) / 1000
}

// downsample cuts a source with too many readings into equal runs of readings
// and keeps each series' smallest and largest value of each run, in the order
// in which they came, so that no peak is lost.
func downsample(c chartSource) chartSource {
	n := len(c.At)
	if n <= maxPoints {
		return c
	}
	buckets := maxPoints / 2
	out := chartSource{Source: c.Source}
	for b := range buckets {
		from, to := b*n/buckets, (b+1)*n/buckets
		out.At = append(out.At, c.At[from], c.At[max(from, to-1)])
	}
	for _, s := range c.Series {
		kept := chartSeries{Key: s.Key, Column: s.Column, Rate: s.Rate}
		for b := range buckets {
			low, high := -1, -1
			for i := b * n / buckets; i < (b+1)*n/buckets; i++ {
				if v := s.Values[i]; v != nil {
					if low < 0 || *v < *s.Values[low] {
						low = i
					}
					if high < 0 || *v > *s.Values[high] {
						high = i
					}
				}
			}
			if low < 0 {
				kept.Values = append(kept.Values, nil, nil)
				continue
			}
			kept.Values = append(kept.Values, s.Values[min(low, high)], s.Values[max(low, high)])
		}
		out.Series = append(out.Series, kept)
	}
	return out
}

// maxProcesses is how many rows the process table has at most.
const maxProcesses = 40

// processRow is one process as the page's table shows it.
type processRow struct {
	PID     int     `json:"pid"`
	PPID    int     `json:"ppid"`
	Comm    string  `json:"comm"`
	Cmdline string  `json:"cmdline"`
	Unit    string  `json:"unit"`
	State   string  `json:"state"`
	Threads uint64  `json:"threads"`
	CPUPct  float64 `json:"cpu_pct"` // of one CPU, over the window
	RSS     uint64  `json:"rss_bytes"`
	Read    uint64  `json:"read_bytes"` // over the window
	Written uint64  `json:"write_bytes"`
}

// processTable returns the processes that used the most CPU, disk or memory in
// the window.
func processTable(w freezeframe.Window) []processRow {
	s := w.Phase("procs", freezeframe.Whole)
	if len(s.Tables) == 0 {
		return nil
	}
	sums := func(columns ...string) map[freezeframe.Key]uint64 {
		sum := make(map[freezeframe.Key]uint64)
		for _, c := range columns {
			for _, a := range s.Top(c) {
				sum[a.Key] += a.Value
			}
		}
		return sum
	}
	cpu, read, written := sums("utime_us", "stime_us"), sums("read_bytes"), sums("write_bytes")
	seconds := s.Tables[len(s.Tables)-1].At.Sub(s.Tables[0].At).Seconds()
	procs := processes(w, func(freezeframe.Key) bool { return true })
	// A process counts by its best rank: the largest by memory stays even when
	// it did nothing.
	best := make(map[freezeframe.Key]int)
	rank := func(amount func(*proc) uint64) {
		order := slices.Clone(procs)
		slices.SortStableFunc(order, func(a, b proc) int { return cmp.Compare(amount(&b), amount(&a)) })
		for i := range order {
			at := i
			if amount(&order[i]) == 0 {
				at = len(order)
			}
			if have, ok := best[order[i].key]; !ok || at < have {
				best[order[i].key] = at
			}
		}
	}
	rank(func(p *proc) uint64 { return cpu[p.key] })
	rank(func(p *proc) uint64 { return read[p.key] + written[p.key] })
	rank(func(p *proc) uint64 { return p.rss })
	slices.SortStableFunc(procs, func(a, b proc) int { return cmp.Compare(best[a.key], best[b.key]) })
	var out []processRow
	for i := range procs[:min(len(procs), maxProcesses)] {
		p := &procs[i]
		row := processRow{
			PID: p.pid, PPID: p.ppid, Comm: p.comm, Cmdline: p.cmdline, Unit: collectors.UnitOf(p.cgroup),
			Threads: p.threads, RSS: p.rss, Read: read[p.key], Written: written[p.key],
		}
		if p.state != 0 {
			row.State = string(rune(p.state))
		}
		if seconds > 0 {
			row.CPUPct = math.Round(float64(cpu[p.key])/seconds/1e3) / 10
		}
		out = append(out, row)
	}
	return out
}
