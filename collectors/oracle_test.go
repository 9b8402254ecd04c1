package collectors

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"freezeframe"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
)

// An oracle reads with prometheus/procfs what a collector reads, from the tree
// at dir, into row name → column name → value. What it leaves out is not
// compared.
type oracle func(dir string) (map[string]map[string]uint64, error)

var oracles = map[string]oracle{
	"stat":       oracleStat,
	"pressure":   oraclePressure,
	"meminfo":    oracleMeminfo,
	"diskstats":  oracleDiskstats,
	"interrupts": oracleInterrupts,
	"softirqs":   oracleSoftirqs,
	"softnet":    oracleSoftnet,
	"netstat":    oracleNetstat,
	"sockstat":   oracleSockstat,
	"netdev":     oracleNetdev,
	"limits":     oracleLimits,
}

// agree compares a collector's reading of a tree with its oracle's.
func agree(t *testing.T, c freezeframe.Collector, dir string) {
	t.Helper()
	want, err := oracles[c.Source().Name](dir)
	if err != nil {
		t.Fatalf("procfs: %v", err)
	}
	h := hostAt(dir)
	if err := c.Open(h); err != nil {
		t.Fatal(err)
	}
	defer closed(t, c)
	var table freezeframe.Table
	if err := collect(t, c, &table); err != nil {
		t.Fatal(err)
	}
	s, texts := c.Source(), h.Texts.(dictionary)
	got := map[string]map[string]uint64{}
	for i, k := range table.Keys {
		row := ""
		switch {
		case k == freezeframe.AllCPUs:
			row = "all"
		case s.Key == "text":
			row = texts[uint64(k)]
		case s.Key == "cpu":
			row = strconv.FormatUint(uint64(k), 10)
		}
		got[row] = map[string]uint64{}
		for j, v := range table.Values(i, len(s.Columns)) {
			if _, compared := want[row][s.Columns[j].Name]; compared || want[row] == nil {
				got[row][s.Columns[j].Name] = v
			}
		}
	}
	if len(got) == 0 || len(want) == 0 {
		t.Fatal("nothing to compare")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-procfs +ours:\n%s", diff)
	}
}

// The same bytes give the same values as prometheus/procfs reads.
func TestAgreesWithProcfs(t *testing.T) {
	compared := map[string]bool{}
	eachTree(t, func(t *testing.T, c freezeframe.Collector, tree string) {
		name := c.Source().Name
		if oracles[name] == nil || tree == filepath.Join(trees, "gateway") && name != "pressure" {
			return // procfs has no parser for it, or wants files this tree lacks
		}
		compared[name] = true
		agree(t, c, tree)
	})
	for name := range oracles {
		if !compared[name] {
			t.Errorf("%s: no tree to compare on", name)
		}
	}
}

var number = regexp.MustCompile(`[ \t=:]\d+`)

// renumber replaces the decimal numbers of every file by random ones. Those
// that name something stay: the first two of a line of diskstats, the number
// of an interrupt, the words of a header.
func renumber(t *testing.T, from, to string, random *rand.Rand) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stat", "meminfo", "diskstats", "interrupts", "softirqs", "net/snmp", "net/netstat", "net/sockstat", "net/sockstat6", "net/dev", "pressure/cpu", "pressure/memory", "pressure/io"} {
		path := filepath.Join(to, "proc", name)
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(b), "\n")
		for i, line := range lines {
			skip, digits := 0, 53
			switch name {
			case "diskstats":
				skip = 2
			case "interrupts":
				lines[i] = renumberCounts(line, random)
				continue
			case "stat":
				digits = 45 // procfs turns ticks into floating-point seconds
			case "net/sockstat", "net/sockstat6":
				digits = 31
			}
			lines[i] = number.ReplaceAllStringFunc(line, func(old string) string {
				if skip > 0 {
					skip--
					return old
				}
				// Every length of number is as likely as any other.
				return old[:1] + strconv.FormatUint(random.Uint64()&(1<<random.IntN(digits+1)-1), 10)
			})
		}
		if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var count = regexp.MustCompile(` \d+`)

func renumberCounts(line string, random *rand.Rand) string {
	irq, rest, ok := strings.Cut(line, ":")
	if !ok {
		return line
	}
	left := 2 // CPUs of the tree
	return irq + ":" + count.ReplaceAllStringFunc(rest, func(old string) string {
		if left == 0 {
			return old
		}
		left--
		return " " + strconv.FormatUint(random.Uint64()&(1<<random.IntN(54)-1), 10)
	})
}

// FuzzAgainstProcfs compares on the captured tree with other numbers in it.
func FuzzAgainstProcfs(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		dir := t.TempDir()
		renumber(t, filepath.Join(trees, "linux-6.18"), dir, rand.New(rand.NewPCG(seed, 0)))
		for _, c := range All(nil) {
			if oracles[c.Source().Name] != nil {
				agree(t, c, dir)
			}
		}
	})
}

func oracleStat(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	s, err := proc.Stat()
	if err != nil {
		return nil, err
	}
	us := func(seconds float64) uint64 { return uint64(seconds*100+0.5) * 10_000 }
	row := func(c procfs.CPUStat) map[string]uint64 {
		return map[string]uint64{
			"user_us": us(c.User), "nice_us": us(c.Nice), "system_us": us(c.System), "idle_us": us(c.Idle), "iowait_us": us(c.Iowait),
			"irq_us": us(c.IRQ), "softirq_us": us(c.SoftIRQ), "steal_us": us(c.Steal), "guest_us": us(c.Guest),
		}
	}
	rows := map[string]map[string]uint64{"all": row(s.CPUTotal)}
	for cpu, c := range s.CPU {
		rows[strconv.FormatInt(cpu, 10)] = row(c)
	}
	all := rows["all"]
	all["ctxt"], all["processes"], all["intr"] = s.ContextSwitches, s.ProcessCreated, s.IRQTotal
	all["procs_running"], all["procs_blocked"] = s.ProcessesRunning, s.ProcessesBlocked
	return rows, nil
}

func oraclePressure(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	rows := map[string]map[string]uint64{}
	for _, p := range pressureFiles {
		resource := string(p.name)
		s, err := proc.PSIStatsForResource(resource)
		if err != nil {
			continue // irq, on most kernels
		}
		rows[resource] = map[string]uint64{"some_us": 0, "full_us": 0}
		if s.Some != nil {
			rows[resource]["some_us"] = s.Some.Total
		}
		if s.Full != nil {
			rows[resource]["full_us"] = s.Full.Total
		}
	}
	return rows, nil
}

func oracleMeminfo(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	m, err := proc.Meminfo()
	if err != nil {
		return nil, err
	}
	return map[string]map[string]uint64{"": {
		"mem_total_bytes": *m.MemTotalBytes, "mem_free_bytes": *m.MemFreeBytes, "mem_available_bytes": *m.MemAvailableBytes,
		"buffers_bytes": *m.BuffersBytes, "cached_bytes": *m.CachedBytes, "swap_cached_bytes": *m.SwapCachedBytes,
		"swap_total_bytes": *m.SwapTotalBytes, "swap_free_bytes": *m.SwapFreeBytes,
		"dirty_bytes": *m.DirtyBytes, "writeback_bytes": *m.WritebackBytes, "anon_bytes": *m.AnonPagesBytes, "shmem_bytes": *m.ShmemBytes,
		"slab_reclaimable_bytes": *m.SReclaimableBytes, "slab_unreclaimable_bytes": *m.SUnreclaimBytes,
		"page_tables_bytes": *m.PageTablesBytes, "committed_bytes": *m.CommittedASBytes, "commit_limit_bytes": *m.CommitLimitBytes,
	}}, nil
}

func oracleDiskstats(dir string) (map[string]map[string]uint64, error) {
	sys := dir + "/sys"
	if _, err := os.Stat(sys); err != nil {
		sys = dir // not read; NewFS wants a directory
	}
	block, err := blockdevice.NewFS(dir+"/proc", sys)
	if err != nil {
		return nil, err
	}
	all, err := block.ProcDiskstats()
	if err != nil {
		return nil, err
	}
	rows := map[string]map[string]uint64{}
	for _, d := range all {
		row := map[string]uint64{
			"reads": d.ReadIOs, "reads_merged": d.ReadMerges, "read_bytes": d.ReadSectors * 512, "read_us": d.ReadTicks * 1000,
			"writes": d.WriteIOs, "writes_merged": d.WriteMerges, "write_bytes": d.WriteSectors * 512, "write_us": d.WriteTicks * 1000,
			"in_flight": d.IOsInProgress, "io_us": d.IOsTotalTicks * 1000, "weighted_us": d.WeightedIOTicks * 1000,
			"discards": d.DiscardIOs, "discard_us": d.DiscardTicks * 1000,
			"flushes": d.FlushRequestsCompleted, "flush_us": d.TimeSpentFlushing * 1000,
		}
		ever := d.DiscardMerges | d.DiscardSectors
		for _, v := range row {
			ever |= v
		}
		if row["dev"] = uint64(d.MajorNumber)<<20 | uint64(d.MinorNumber); ever != 0 {
			rows[d.DeviceName] = row
		}
	}
	return rows, nil
}

func oracleInterrupts(dir string) (map[string]map[string]uint64, error) {
	// procfs reads /proc/PID/interrupts only, so a process that holds just the
	// file stands for one.
	root, err := os.MkdirTemp("", "procfs")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	b, err := os.ReadFile(dir + "/proc/interrupts")
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(root+"/1", 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(root+"/interrupts", b, 0o644); err != nil {
		return nil, err
	}
	proc, err := procfs.NewFS(root)
	if err != nil {
		return nil, err
	}
	p, err := proc.Proc(1)
	if err != nil {
		return nil, err
	}
	all, err := p.Interrupts()
	if err != nil {
		return nil, err
	}
	// The CPUs of the columns, which procfs does not tell.
	var cpus []uint64
	for _, word := range strings.Fields(strings.SplitN(string(b), "\n", 2)[0]) {
		n, err := strconv.ParseUint(strings.TrimPrefix(word, "CPU"), 10, 64)
		if err != nil {
			return nil, err
		}
		cpus = append(cpus, n)
	}
	rows := map[string]map[string]uint64{}
	for irq, i := range all {
		var sum, busiest, most uint64
		for column, text := range i.Values {
			v, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("interrupt %s: %w", irq, err)
			}
			if sum += v; v > most {
				busiest, most = cpus[column], v
			}
		}
		if sum == 0 {
			continue
		}
		// Its split of what follows the counts is by words; the name is the end
		// of it whatever the split.
		name := irq
		if _, err := strconv.Atoi(irq); err == nil {
			words := strings.Fields(i.Info + " " + i.Devices)
			kind := 0
			for k, w := range words {
				if strings.HasSuffix(w, "-edge") || strings.HasSuffix(w, "-fasteoi") || w == "-event" {
					kind = k + 1
				}
			}
			name = strings.TrimSpace(irq + " " + strings.Join(words[kind:], " "))
		} else if i.Info != "" {
			name = irq + " " + i.Info
		}
		rows[name] = map[string]uint64{"count": sum, "busiest_cpu": busiest, "busiest_count": most}
	}
	return rows, nil
}

func oracleSoftirqs(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	s, err := proc.Softirqs()
	if err != nil {
		return nil, err
	}
	rows := map[string]map[string]uint64{}
	for cpu := range s.Hi {
		rows[strconv.Itoa(cpu)] = map[string]uint64{
			"hi": s.Hi[cpu], "timer": s.Timer[cpu], "net_tx": s.NetTx[cpu], "net_rx": s.NetRx[cpu], "block": s.Block[cpu],
			"irq_poll": s.IRQPoll[cpu], "tasklet": s.Tasklet[cpu], "sched": s.Sched[cpu], "hrtimer": s.HRTimer[cpu], "rcu": s.RCU[cpu],
		}
	}
	return rows, nil
}

func oracleSoftnet(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	all, err := proc.NetSoftnetStat()
	if err != nil {
		return nil, err
	}
	rows := map[string]map[string]uint64{}
	for _, s := range all {
		rows[strconv.FormatUint(uint64(s.Index), 10)] = map[string]uint64{
			"processed": uint64(s.Processed), "dropped": uint64(s.Dropped), "time_squeeze": uint64(s.TimeSqueezed), "backlog": uint64(s.SoftnetBacklogLen),
		}
	}
	return rows, nil
}

func oracleNetstat(dir string) (map[string]map[string]uint64, error) {
	root, err := os.MkdirTemp("", "procfs")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	if err := os.CopyFS(root+"/1/net", os.DirFS(dir+"/proc/net")); err != nil {
		return nil, err
	}
	proc, err := procfs.NewFS(root)
	if err != nil {
		return nil, err
	}
	p, err := proc.Proc(1)
	if err != nil {
		return nil, err
	}
	n, err := p.Netstat()
	if err != nil {
		return nil, err
	}
	s, err := p.Snmp()
	if err != nil {
		return nil, err
	}
	row := map[string]uint64{}
	for name, v := range map[string]*float64{
		"TcpActiveOpens": s.ActiveOpens, "TcpPassiveOpens": s.PassiveOpens, "TcpAttemptFails": s.AttemptFails, "TcpEstabResets": s.EstabResets,
		"TcpInSegs": s.InSegs, "TcpOutSegs": s.OutSegs, "TcpRetransSegs": s.RetransSegs, "TcpOutRsts": s.OutRsts,
		"TcpExtListenOverflows": n.ListenOverflows, "TcpExtListenDrops": n.ListenDrops,
		"TcpExtTCPReqQFullDrop": n.TCPReqQFullDrop, "TcpExtTCPReqQFullDoCookies": n.TCPReqQFullDoCookies,
		"TcpExtSyncookiesSent": n.SyncookiesSent, "TcpExtSyncookiesRecv": n.SyncookiesRecv, "TcpExtSyncookiesFailed": n.SyncookiesFailed,
		"TcpExtTCPTimeouts": n.TCPTimeouts, "TcpExtTCPSynRetrans": n.TCPSynRetrans, "TcpExtTCPLostRetransmit": n.TCPLostRetransmit,
		"TcpExtTCPAbortOnMemory": n.TCPAbortOnMemory, "TcpExtTCPMemoryPressures": n.TCPMemoryPressures, "TcpExtTCPRcvQDrop": n.TCPRcvQDrop,
		"TcpExtTCPToZeroWindowAdv": n.TCPToZeroWindowAdv, "TcpExtTCPTimeWaitOverflow": n.TCPTimeWaitOverflow,
		"TcpExtTCPBacklogDrop": n.TCPBacklogDrop, "TcpExtPruneCalled": n.PruneCalled,
		"UdpInDatagrams": s.Udp.InDatagrams, "UdpInErrors": s.Udp.InErrors, "UdpRcvbufErrors": s.Udp.RcvbufErrors, "UdpSndbufErrors": s.Udp.SndbufErrors,
		"IpInDiscards": s.InDiscards, "IpOutDiscards": s.OutDiscards,
	} {
		if v != nil { // procfs does not know them all
			row[name] = uint64(*v)
		}
	}
	return map[string]map[string]uint64{"": row}, nil
}

func oracleSockstat(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	v4, err := proc.NetSockstat()
	if err != nil {
		return nil, err
	}
	all := v4.Protocols
	v6, err := proc.NetSockstat6()
	if err == nil {
		all = append(all, v6.Protocols...)
	} else if !os.IsNotExist(err) {
		return nil, err
	}
	row := map[string]uint64{"sockets_used": uint64(*v4.Used)}
	for _, p := range all {
		switch p.Protocol {
		case "TCP":
			row["tcp_inuse"] += uint64(p.InUse)
			row["tcp_orphan"], row["tcp_tw"], row["tcp_alloc"], row["tcp_mem_pages"] = uint64(*p.Orphan), uint64(*p.TW), uint64(*p.Alloc), uint64(*p.Mem)
		case "TCP6":
			row["tcp_inuse"] += uint64(p.InUse)
		case "UDP":
			row["udp_inuse"] += uint64(p.InUse)
			row["udp_mem_pages"] = uint64(*p.Mem)
		case "UDP6":
			row["udp_inuse"] += uint64(p.InUse)
		}
	}
	return map[string]map[string]uint64{"": row}, nil
}

func oracleNetdev(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	all, err := proc.NetDev()
	if err != nil {
		return nil, err
	}
	rows := map[string]map[string]uint64{}
	for _, n := range all {
		rows[n.Name] = map[string]uint64{
			"rx_bytes": n.RxBytes, "rx_packets": n.RxPackets, "rx_errs": n.RxErrors, "rx_drop": n.RxDropped,
			"tx_bytes": n.TxBytes, "tx_packets": n.TxPackets, "tx_errs": n.TxErrors, "tx_drop": n.TxDropped,
		}
	}
	return rows, nil
}

func oracleLimits(dir string) (map[string]map[string]uint64, error) {
	proc, err := procfs.NewFS(dir + "/proc")
	if err != nil {
		return nil, err
	}
	row := map[string]uint64{}
	conntrack, err := proc.ConntrackStat()
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, c := range conntrack {
		row["conntrack_drop"] += c.Drop
		row["conntrack_insert_failed"] += c.InsertFailed
	}
	all, err := proc.NetStat()
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		switch s.Filename {
		case "arp_cache", "ndisc_cache":
			row["neigh_entries"] += s.Stats["entries"][0]
			for _, v := range s.Stats["table_fulls"] {
				row["neigh_table_fulls"] += v
			}
		}
	}
	ports, err := proc.SysctlInts("net/ipv4/ip_local_port_range")
	if err != nil {
		return nil, err
	}
	files, err := proc.SysctlInts("fs/file-nr")
	if err != nil {
		return nil, err
	}
	for column, name := range map[string]string{"tcp_mem_pressure_pages": "net/ipv4/tcp_mem", "max_map_count": "vm/max_map_count", "overcommit_memory": "vm/overcommit_memory"} {
		values, err := proc.SysctlInts(name)
		if err != nil {
			return nil, err
		}
		row[column] = uint64(values[0])
		if len(values) == 3 { // low, pressure, high
			row[column], row["tcp_mem_max_pages"] = uint64(values[1]), uint64(values[2])
		}
	}
	row["port_low"], row["port_high"] = uint64(ports[0]), uint64(ports[1])
	row["files_allocated"], row["files_max"] = uint64(files[0]), uint64(files[2])
	return map[string]map[string]uint64{"": row}, nil
}
