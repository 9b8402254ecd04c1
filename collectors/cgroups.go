package collectors

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	cgCPUUsage = iota
	cgCPUPeriods
	cgCPUThrottled
	cgCPUThrottledUs
	cgCPUQuota
	cgCPUPeriod
	cgCPUWeight
	cgMemory
	cgMemoryMax
	cgMemoryHigh
	cgMemoryHighEvents
	cgMemoryMaxEvents
	cgMemoryOOMEvents
	cgMemoryOOMKills
	cgSwap
	cgSwapMax
	cgPIDs
	cgPIDsMax
	cgPIDsMaxEvents
	cgIORead
	cgIOWrite
	cgIOs
	cgIOLimited
	cgFrozen
	cgCPUSome
	cgMemorySome
	cgMemoryFull
	cgIOSome
	cgIOFull
	cgProcs
	cgUnderOOM
	cgWidth
)

const (
	maxCgroups    = 1000
	maxHotCgroups = 128 // read at the full rate while a stall is open
	maxDepth      = 16
	// A thousand cgroups take 15 ms to read; that is then spread over more than
	// a second: a two-hundredth of a CPU.
	cgroupsShare  = 200
	limitsRefresh = 5 * time.Second
)

// cgroupFile is a control file and what its contents mean for the row. Where
// several names are given the first that exists is read. parse never fails:
// what it cannot read it leaves.
type cgroupFile struct {
	names string // separated by blanks
	parse func(b []byte, row []uint64)
}

// cgroupKind is what is read of one hierarchy: live files at every reading,
// the limits by the goroutine that walks the tree.
type cgroupKind struct {
	controller   string // of v1, as it stands in mountinfo and in the key; "" for v2
	live, limits []cgroupFile
	beside       string // another v1 controller whose files of the same group belong to the row
}

// cgroupKinds is every hierarchy that is read. memory.stat is left out on
// purpose: with many dying cgroups one read of it takes seconds.
func cgroupKinds() []cgroupKind {
	return []cgroupKind{
		{
			live: []cgroupFile{
				{"cpu.stat", parseCPUStat},
				{"memory.current", gaugeInto(cgMemory)},
				// Of this group alone, or a parent would be blamed for its children.
				{"memory.events.local memory.events", parseMemoryEvents},
				{"memory.swap.current", gaugeInto(cgSwap)},
				{"pids.current", gaugeInto(cgPIDs)},
				{"pids.events.local pids.events", parsePIDsEvents},
				{"io.stat", parseIOStat},
				{"cgroup.events", parseCgroupEvents},
				{"cpu.pressure", pressureInto(cgCPUSome, -1)},
				{"memory.pressure", pressureInto(cgMemorySome, cgMemoryFull)},
				{"io.pressure", pressureInto(cgIOSome, cgIOFull)},
			},
			limits: []cgroupFile{
				{"cpu.max", parseCPUMax},
				{"cpu.weight", gaugeInto(cgCPUWeight)},
				{"memory.max", limitInto(cgMemoryMax)},
				{"memory.high", limitInto(cgMemoryHigh)},
				{"memory.swap.max", limitInto(cgSwapMax)},
				{"pids.max", limitInto(cgPIDsMax)},
				{"io.max", limitedInto},
			},
		},
		{
			controller: "cpu", beside: "cpuacct",
			live: []cgroupFile{
				{"cpu.stat", parseCPUStat},
				{"cpuacct.usage", func(b []byte, row []uint64) {
					ns, _ := kernel.Uint(firstWord(b))
					row[cgCPUUsage] = ns / 1000
				}},
			},
			limits: []cgroupFile{
				{"cpu.cfs_quota_us", func(b []byte, row []uint64) {
					if v, ok := kernel.Uint(firstWord(b)); ok { // -1: none
						row[cgCPUQuota] = v
					}
				}},
				{"cpu.cfs_period_us", gaugeInto(cgCPUPeriod)},
				{"cpu.shares", gaugeInto(cgCPUWeight)},
			},
		},
		{
			controller: "memory",
			live: []cgroupFile{
				{"memory.usage_in_bytes", gaugeInto(cgMemory)},
				{"memory.failcnt", gaugeInto(cgMemoryMaxEvents)},
				{"memory.oom_control", parseOOMControl},
				{"memory.memsw.usage_in_bytes", lessInto(cgSwap, cgMemory)},
			},
			limits: []cgroupFile{
				{"memory.limit_in_bytes", limitInto(cgMemoryMax)},
				{"memory.memsw.limit_in_bytes", lessInto(cgSwapMax, cgMemoryMax)},
			},
		},
		{
			controller: "blkio",
			live: []cgroupFile{
				{"blkio.throttle.io_service_bytes_recursive blkio.throttle.io_service_bytes", parseBlkioBytes},
				{"blkio.throttle.io_serviced_recursive blkio.throttle.io_serviced", parseBlkioServiced},
			},
			limits: []cgroupFile{
				{"blkio.throttle.read_bps_device", limitedInto},
				{"blkio.throttle.write_bps_device", limitedInto},
				{"blkio.throttle.read_iops_device", limitedInto},
				{"blkio.throttle.write_iops_device", limitedInto},
			},
		},
		{
			controller: "pids",
			live: []cgroupFile{
				{"pids.current", gaugeInto(cgPIDs)},
				{"pids.events", parsePIDsEvents},
			},
			limits: []cgroupFile{{"pids.max", limitInto(cgPIDsMax)}},
		},
		{
			controller: "freezer",
			live: []cgroupFile{{"freezer.state", func(b []byte, row []uint64) {
				// FREEZING counts: some of its tasks stand still already.
				if w := string(firstWord(b)); w == "FROZEN" || w == "FREEZING" {
					row[cgFrozen] = 1
				}
			}}},
		},
	}
}

// cgroups reads the control files of every control group that has a process or
// a limit, of v1 and v2. A goroutine of its own walks the trees, opens the
// files and reads the limits, because all that waits for cgroup_mutex; the
// sampling path reads counters through kept-open descriptors.
type cgroups struct {
	buf   []byte
	texts freezeframe.Texts
	focus *freezeframe.Focus
	every pace
	needs needs

	published atomic.Pointer[[]*cgroup]
	using     atomic.Pointer[[]*cgroup] // by the sampling path, at this moment
	walker    *cgroupWalker
	rounds    rounds
	open      bool
}

// cgroup is one row.
type cgroup struct {
	key    []byte
	live   []openCgroupFile
	limits atomic.Pointer[[cgWidth]uint64]
	hot    atomic.Bool // it has a limit that can stall somebody
	watch  atomic.Bool // it holds a process in focus
	gone   atomic.Bool
	frozen bool // at the last reading; the sampling path's own
}

type openCgroupFile struct {
	fd    int
	parse func([]byte, []uint64)
}

func (c *cgroups) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, "text"
	return freezeframe.Source{
		Name: "cgroups", From: "/sys/fs/cgroup", Key: text,
		Every: time.Second, Stalled: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			cgCPUUsage:         {Name: "cpu_usage_us"},
			cgCPUPeriods:       {Name: "cpu_periods"},
			cgCPUThrottled:     {Name: "cpu_throttled"},
			cgCPUThrottledUs:   {Name: "cpu_throttled_us"},
			cgCPUQuota:         {Name: "cpu_quota_us", Kind: gauge},
			cgCPUPeriod:        {Name: "cpu_period_us", Kind: gauge},
			cgCPUWeight:        {Name: "cpu_weight", Kind: gauge}, // v1: cpu.shares
			cgMemory:           {Name: "memory_bytes", Kind: gauge},
			cgMemoryMax:        {Name: "memory_max_bytes", Kind: gauge},
			cgMemoryHigh:       {Name: "memory_high_bytes", Kind: gauge},
			cgMemoryHighEvents: {Name: "memory_high_events"},
			cgMemoryMaxEvents:  {Name: "memory_max_events"},
			cgMemoryOOMEvents:  {Name: "memory_oom_events"},
			cgMemoryOOMKills:   {Name: "memory_oom_kills"},
			cgSwap:             {Name: "swap_bytes", Kind: gauge},
			cgSwapMax:          {Name: "swap_max_bytes", Kind: gauge},
			cgPIDs:             {Name: "pids", Kind: gauge},
			cgPIDsMax:          {Name: "pids_max", Kind: gauge},
			cgPIDsMaxEvents:    {Name: "pids_max_events"},
			cgIORead:           {Name: "io_read_bytes"},
			cgIOWrite:          {Name: "io_write_bytes"},
			cgIOs:              {Name: "io_ios"},
			cgIOLimited:        {Name: "io_limited", Kind: gauge},
			cgFrozen:           {Name: "frozen", Kind: gauge},
			cgCPUSome:          {Name: "cpu_some_us"},
			cgMemorySome:       {Name: "memory_some_us"},
			cgMemoryFull:       {Name: "memory_full_us"},
			cgIOSome:           {Name: "io_some_us"},
			cgIOFull:           {Name: "io_full_us"},
			cgProcs:            {Name: "procs", Kind: gauge}, // a few seconds old
			cgUnderOOM:         {Name: "under_oom", Kind: gauge},
		},
		Needs: c.needs.all(),
	}
}

func (c *cgroups) Open(h freezeframe.Host) error {
	c.texts, c.focus = h.Texts, h.Focus
	c.buf = make([]byte, 32<<10)
	c.every = pace{}
	c.walker = &cgroupWalker{host: h, publish: c.hand, needs: &c.needs, small: make([]byte, 16<<10), known: make(map[string]*knownCgroup)}
	if err := c.walker.findTrees(); err != nil {
		return err
	}
	c.walker.walk()
	c.rounds.start(c.walker.round)
	c.open = true
	return nil
}

func (c *cgroups) Close() error {
	if !c.open {
		return nil
	}
	c.open = false
	c.rounds.stop()
	c.published.Store(nil)
	c.walker.closeAll()
	return nil
}

// hand gives the sampling path a new list. It tells whether what only the
// older lists held may be closed now.
func (c *cgroups) hand(list []*cgroup) (free bool) {
	if list != nil {
		c.published.Store(&list)
	}
	using := c.using.Load()
	return using == nil || using == c.published.Load()
}

func (c *cgroups) Collect(t *freezeframe.Table) error {
	var list *[]*cgroup
	for {
		list = c.published.Load()
		c.using.Store(list)
		if list == c.published.Load() {
			break
		}
	}
	defer c.using.Store(nil)
	if list == nil {
		return nil
	}
	began := kernel.Now()
	if c.focus.Stalled(began) {
		c.rounds.soon()
	}
	all := c.every.due(began)
	hot := 0
	for _, g := range *list {
		if !all {
			if !(g.watch.Load() || hot < maxHotCgroups && (g.frozen || g.hot.Load())) {
				continue
			}
			hot++
		}
		c.read(t, g)
	}
	if all {
		c.every.done(began, time.Second, cgroupsShare)
	}
	return nil
}

func (c *cgroups) read(t *freezeframe.Table, g *cgroup) {
	if g.gone.Load() {
		return
	}
	row := t.Row(freezeframe.Key(c.texts.Intern(g.key)), cgWidth)
	if limits := g.limits.Load(); limits != nil {
		copy(row, limits[:])
	}
	for i := range g.live {
		n, err := readControl(g.live[i].fd, c.buf)
		if err != nil {
			if kernel.IsGone(err) {
				// Removed since the last walk: half a row would be a lie.
				g.gone.Store(true)
				t.Keys = t.Keys[:len(t.Keys)-1]
				t.Vals = t.Vals[:len(t.Vals)-cgWidth]
				return
			}
			continue
		}
		g.live[i].parse(c.buf[:n], row)
	}
	g.frozen = row[cgFrozen] != 0
}

// readControl reads a control file. The kernel hands out what fits into a page
// at a time, so what is well below that is all there is.
func readControl(fd int, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		got, err := kernel.Pread(fd, buf[n:], int64(n))
		if err != nil {
			return 0, err
		}
		n += got
		if got < 2048 {
			break
		}
	}
	return n, nil
}

// cgroupWalker finds the cgroups. All of it runs on its own goroutine.
type cgroupWalker struct {
	host    freezeframe.Host
	publish func([]*cgroup) bool
	needs   *needs
	trees   []cgroupTree
	known   map[string]*knownCgroup
	retired []*cgroup
	open    int // descriptors
	most    int // of them
	walks   int
	next    freezeframe.Instant
	small   []byte
	dir     kernel.Dir
	changed bool
	dropped int
}

type cgroupTree struct {
	kind   cgroupKind
	prefix string // of the key: "cpu:", and the mount's root when it is not /
	path   string // where it is mounted
	beside string // where the other controller is, when mounted elsewhere
}

type knownCgroup struct {
	cgroup  *cgroup // nil while it has neither a process nor a limit
	dir     string
	tree    int
	walk    int // the last walk that saw it
	since   freezeframe.Instant
	checked freezeframe.Instant
	// The v2 controllers it had when its files were opened: systemd enables one
	// for a running unit as soon as a setting asks for it, and only then are
	// its files there (Documentation/admin-guide/cgroup-v2.rst, cgroup.controllers).
	controllers string
}

// findTrees looks up where the hierarchies are mounted.
func (w *cgroupWalker) findTrees() error {
	b, err := os.ReadFile(filepath.Join(w.host.Proc, "self/mountinfo"))
	if err != nil {
		return fmt.Errorf("find the cgroup hierarchies: %w", notHere(err))
	}
	w.trees = nil
	at := make(map[string]string) // controller → path
	roots := make(map[string]string)
	lines := kernel.Scan(b)
	var m mountLine
	for nextMount(&lines, &m) {
		var names []string
		switch string(m.fstype) {
		case "cgroup2":
			names = []string{""}
		case "cgroup":
			names = strings.Split(string(m.super), ",")
		default:
			continue
		}
		path := string(appendUnescaped(nil, m.point))
		if rest, ok := strings.CutPrefix(path, "/sys/"); ok {
			path = filepath.Join(w.host.Sys, rest)
		}
		root := string(appendUnescaped(nil, m.root))
		for _, name := range names {
			// A container's bind mount shows a part of the same tree again.
			if old, ok := roots[name]; ok && len(old) <= len(root) {
				continue
			}
			at[name], roots[name] = path, root
		}
	}
	for _, kind := range cgroupKinds() {
		path, ok := at[kind.controller]
		if !ok {
			continue
		}
		tree := cgroupTree{kind: kind, path: path}
		if kind.controller != "" {
			tree.prefix = kind.controller + ":"
		}
		if root := roots[kind.controller]; root != "/" {
			tree.prefix += strings.TrimSuffix(root, "/")
		}
		if kind.beside != "" && at[kind.beside] != path {
			tree.beside = at[kind.beside]
		}
		w.trees = append(w.trees, tree)
	}
	if len(w.trees) == 0 {
		return fmt.Errorf("no cgroup hierarchy is mounted: %w", freezeframe.ErrNotHere)
	}
	w.most = max(256, min(12_000, kernel.OpenFilesLimit()/2))
	return nil
}

// round refreshes what is known of those that hold somebody in focus, and now
// and then of all.
func (w *cgroupWalker) round() {
	now := kernel.Now()
	if w.host.Focus.Stalled(now) {
		w.watch()
	}
	if now < w.next {
		return
	}
	if w.walks%30 == 0 {
		_ = w.findTrees() // when that fails the old ones stand
	}
	w.walk()
}

// walk goes through every tree once.
func (w *cgroupWalker) walk() {
	began := kernel.Now()
	w.walks++
	w.changed, w.dropped = false, 0
	for i := range w.trees {
		w.visit(i, w.trees[i].path, "", 0)
	}
	var list []*cgroup
	for key, k := range w.known {
		if k.walk != w.walks || k.cgroup != nil && k.cgroup.gone.Load() {
			w.retire(k)
			delete(w.known, key)
			continue
		}
		if k.cgroup != nil {
			list = append(list, k.cgroup)
		}
	}
	if w.changed {
		// In the order of their names, so that readings compress.
		slices.SortFunc(list, func(a, b *cgroup) int { return bytes.Compare(a.key, b.key) })
		if list == nil {
			list = []*cgroup{}
		}
	} else {
		list = nil
	}
	if w.publish(list) && len(w.retired) > 0 {
		for _, g := range w.retired {
			w.close(g)
		}
		w.retired = nil
	}
	if w.dropped > 0 {
		w.needs.add(freezeframe.Need{
			What: fmt.Sprintf("read more than %d cgroups with %d descriptors", maxCgroups, w.most),
			Lost: fmt.Sprintf("limits and throttling of at least %d cgroups", w.dropped),
			Fix:  "raise LimitNOFILE= of the service if it is low",
			Err:  "there are more",
		})
	}
	w.next = kernel.Now().Add(max(time.Second-50*time.Millisecond, kernel.Now().Sub(began)*cgroupsShare))
}

// visit looks at one cgroup and those below it.
func (w *cgroupWalker) visit(tree int, dir, below string, depth int) {
	w.look(tree, dir, below)
	if depth >= maxDepth {
		return
	}
	if w.dir.Open(kernel.AtCWD, append([]byte(dir), 0)) != nil {
		return
	}
	var children []string
	for name := w.dir.Next(); name != nil; name = w.dir.Next() {
		if w.dir.IsDir() {
			children = append(children, string(name[:len(name)-1]))
		}
	}
	w.dir.Close()
	for _, name := range children {
		w.visit(tree, dir+"/"+name, below+"/"+name, depth+1)
	}
}

// look decides whether a cgroup gets a row, and refreshes its limits.
func (w *cgroupWalker) look(tree int, dir, below string) {
	key := w.trees[tree].prefix + below
	if below == "" {
		key = w.trees[tree].prefix + "/"
	}
	now := kernel.Now()
	k := w.known[key]
	if k == nil {
		k = &knownCgroup{dir: dir, tree: tree, since: now}
		w.known[key] = k
	}
	k.walk = w.walks
	// A new one gets its limits and processes in its first moments.
	if young := now.Sub(k.since) < limitsRefresh && k.cgroup == nil; !young &&
		now.Sub(k.checked) < limitsRefresh && (k.cgroup == nil || !k.cgroup.watch.Load()) {
		return
	}
	k.checked = now
	limits := w.limits(k)
	if limits[cgProcs] == 0 && !limited(&limits) && limits[cgPIDsMax] == 0 {
		if k.cgroup != nil {
			w.retire(k)
		}
		return
	}
	controllers := w.controllers(k)
	if k.cgroup != nil && k.controllers != controllers {
		w.retire(k)
	}
	if k.cgroup == nil {
		if len(w.known) > 4*maxCgroups || w.rows() >= maxCgroups {
			w.dropped++
			return
		}
		if k.cgroup = w.openCgroup(k, key); k.cgroup == nil {
			return
		}
		k.controllers = controllers
		w.changed = true
	}
	k.cgroup.limitsAre(limits)
}

func (g *cgroup) limitsAre(limits [cgWidth]uint64) {
	g.hot.Store(limited(&limits))
	if old := g.limits.Load(); old == nil || *old != limits {
		g.limits.Store(&limits)
	}
}

// limited tells whether the limits can stall somebody.
func limited(limits *[cgWidth]uint64) bool {
	return limits[cgCPUQuota]|limits[cgMemoryMax]|limits[cgMemoryHigh]|limits[cgIOLimited] != 0
}

func (w *cgroupWalker) rows() int {
	n := 0
	for _, k := range w.known {
		if k.cgroup != nil {
			n++
		}
	}
	return n
}

// limits reads the limits of a cgroup and counts its processes.
func (w *cgroupWalker) limits(k *knownCgroup) (row [cgWidth]uint64) {
	for _, f := range w.trees[k.tree].kind.limits {
		for name := range strings.FieldsSeq(f.names) {
			n, err := kernel.SlowReadAt(kernel.AtCWD, append([]byte(k.dir+"/"+name), 0), w.small)
			if err == nil {
				f.parse(w.small[:n], row[:])
				break
			}
		}
	}
	// The processes of a threaded group stand in cgroup.threads alone.
	for _, name := range []string{"/cgroup.procs\x00", "/cgroup.threads\x00"} {
		if n, err := kernel.SlowReadAt(kernel.AtCWD, append([]byte(k.dir), name...), w.small); err == nil {
			row[cgProcs] = uint64(bytes.Count(w.small[:n], []byte{'\n'}))
			break
		}
	}
	return row
}

// controllers returns what controllers a v2 cgroup has; nothing in v1, where
// that does not change.
func (w *cgroupWalker) controllers(k *knownCgroup) string {
	if w.trees[k.tree].kind.controller != "" {
		return ""
	}
	n, err := kernel.SlowReadAt(kernel.AtCWD, append([]byte(k.dir), "/cgroup.controllers\x00"...), w.small)
	if err != nil {
		return k.controllers // a moment's failure is no change
	}
	if string(w.small[:n]) == k.controllers {
		return k.controllers
	}
	return string(w.small[:n])
}

// openCgroup opens the live files of a cgroup; nil when there are none.
func (w *cgroupWalker) openCgroup(k *knownCgroup, key string) *cgroup {
	g := &cgroup{key: []byte(key)}
	tree := &w.trees[k.tree]
	beside := ""
	if tree.beside != "" {
		beside = tree.beside + strings.TrimPrefix(k.dir, tree.path)
	}
	for _, f := range tree.kind.live {
		for name := range strings.FieldsSeq(f.names) {
			if w.open >= w.most {
				w.dropped++
				break
			}
			fd, err := kernel.OpenRead(k.dir + "/" + name)
			if err != nil && beside != "" {
				fd, err = kernel.OpenRead(beside + "/" + name)
			}
			if err != nil {
				continue
			}
			// A file of a feature that is switched off (PSI, swap accounting)
			// opens and cannot be read.
			if _, err := readControl(fd, w.small); err != nil {
				kernel.CloseFD(fd)
				continue
			}
			w.open++
			g.live = append(g.live, openCgroupFile{fd, f.parse})
			break
		}
	}
	if len(g.live) == 0 {
		return nil
	}
	return g
}

// retire takes a cgroup's row away; its files are closed when the sampling
// path has let go of them.
func (w *cgroupWalker) retire(k *knownCgroup) {
	if k.cgroup != nil {
		w.retired = append(w.retired, k.cgroup)
		k.cgroup = nil
		w.changed = true
	}
}

func (w *cgroupWalker) close(g *cgroup) {
	for _, f := range g.live {
		kernel.CloseFD(f.fd)
		w.open--
	}
}

func (w *cgroupWalker) closeAll() {
	for _, k := range w.known {
		if k.cgroup != nil {
			w.close(k.cgroup)
		}
	}
	for _, g := range w.retired {
		w.close(g)
	}
	w.known, w.retired = make(map[string]*knownCgroup), nil
}

// watch marks the cgroups of the processes in focus, and reads their limits and
// those above them at once: a limit that somebody cut may be what they wait
// for, and the next walk of a machine with many cgroups can be seconds away.
func (w *cgroupWalker) watch() {
	watched := make(map[string]bool)
	for _, pid := range w.host.Focus.PIDs() {
		b, err := os.ReadFile(filepath.Join(w.host.Proc, strconv.Itoa(int(pid)), "cgroup"))
		if err != nil {
			continue
		}
		for key := range cgroupKeys(b) {
			watched[key] = true
		}
	}
	for key, k := range w.known {
		if k.cgroup != nil {
			k.cgroup.watch.Store(watched[key])
		}
	}
	seen := make(map[string]bool)
	for key := range watched {
		for ; !seen[key]; key = aboveCgroup(key) {
			seen[key] = true
			if k := w.known[key]; k != nil && k.cgroup != nil && !k.cgroup.gone.Load() {
				k.cgroup.limitsAre(w.limits(k))
			}
		}
	}
}

// aboveCgroup returns the key of the cgroup above, of the root its own.
func aboveCgroup(key string) string {
	prefix, path, v1 := strings.Cut(key, ":/") // a v2 key begins with /
	if !v1 || strings.HasPrefix(key, "/") {
		prefix, path = "", strings.TrimPrefix(key, "/")
	} else {
		prefix += ":"
	}
	return prefix + "/" + path[:max(strings.LastIndexByte(path, '/'), 0)]
}

// cgroupKeys yields the keys of the rows that belong to a process, from its
// /proc/PID/cgroup (cgroups(7)).
func cgroupKeys(b []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for lines := kernel.Scan(b); lines.More(); {
			_, rest, ok := bytes.Cut(lines.Line(), []byte{':'})
			controllers, path, ok2 := bytes.Cut(rest, []byte{':'})
			if !ok || !ok2 {
				continue
			}
			if len(controllers) == 0 {
				if !yield(string(path)) {
					return
				}
				continue
			}
			for name := range bytes.SplitSeq(controllers, []byte{','}) {
				if !yield(string(name) + ":" + string(path)) {
					return
				}
			}
		}
	}
}

func firstWord(b []byte) []byte {
	s := kernel.Scan(b)
	return s.Word()
}

func gaugeInto(column int) func([]byte, []uint64) {
	return func(b []byte, row []uint64) { row[column], _ = kernel.Uint(firstWord(b)) }
}

// limitInto reads a limit: "max", or the huge number that v1 shows in its
// place, is none (0).
func limitInto(column int) func([]byte, []uint64) {
	return func(b []byte, row []uint64) {
		if v, ok := kernel.Uint(firstWord(b)); ok && v < 1<<62 {
			row[column] = v
		}
	}
}

// lessInto reads v1's sum of memory and swap and keeps what is above another
// column.
func lessInto(column, minus int) func([]byte, []uint64) {
	return func(b []byte, row []uint64) {
		if v, ok := kernel.Uint(firstWord(b)); ok && v < 1<<62 && v > row[minus] {
			row[column] = v - row[minus]
		}
	}
}

// limitedInto sets io_limited when the file names any device with a limit.
func limitedInto(b []byte, row []uint64) {
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		s.Word()
		for !s.EndOfLine() {
			value := s.Word()
			if i := bytes.IndexByte(value, '='); i >= 0 {
				value = value[i+1:]
			}
			if v, ok := kernel.Uint(value); ok && v > 0 {
				row[cgIOLimited] = 1
			}
		}
	}
}

func parseCPUMax(b []byte, row []uint64) {
	s := kernel.Scan(b)
	row[cgCPUQuota], _ = kernel.Uint(s.Word())
	row[cgCPUPeriod], _ = s.Uint()
}

// eachNumber calls set with every "name value" line.
func eachNumber(b []byte, set func(name []byte, v uint64)) {
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		name := s.Word()
		if v, ok := s.Uint(); ok {
			set(name, v)
		}
	}
}

func parseCPUStat(b []byte, row []uint64) {
	eachNumber(b, func(name []byte, v uint64) {
		switch string(name) {
		case "usage_usec":
			row[cgCPUUsage] = v
		case "nr_periods":
			row[cgCPUPeriods] = v
		case "nr_throttled":
			row[cgCPUThrottled] = v
		case "throttled_usec":
			row[cgCPUThrottledUs] = v
		case "throttled_time": // v1, ns
			row[cgCPUThrottledUs] = v / 1000
		}
	})
}

func parseMemoryEvents(b []byte, row []uint64) {
	eachNumber(b, func(name []byte, v uint64) {
		switch string(name) {
		case "high":
			row[cgMemoryHighEvents] = v
		case "max":
			row[cgMemoryMaxEvents] = v
		case "oom":
			row[cgMemoryOOMEvents] = v
		case "oom_kill":
			row[cgMemoryOOMKills] = v
		}
	})
}

func parseOOMControl(b []byte, row []uint64) {
	eachNumber(b, func(name []byte, v uint64) {
		switch string(name) {
		case "under_oom":
			row[cgUnderOOM] = v
		case "oom_kill":
			row[cgMemoryOOMKills] = v
		}
	})
}

func parsePIDsEvents(b []byte, row []uint64) {
	eachNumber(b, func(name []byte, v uint64) {
		if string(name) == "max" {
			row[cgPIDsMaxEvents] = v
		}
	})
}

func parseCgroupEvents(b []byte, row []uint64) {
	eachNumber(b, func(name []byte, v uint64) {
		if string(name) == "frozen" {
			row[cgFrozen] = v
		}
	})
}

// parseIOStat sums io.stat over the devices: "254:0 rbytes=1 wbytes=2 rios=3 …".
func parseIOStat(b []byte, row []uint64) {
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		s.Word()
		for !s.EndOfLine() {
			name, value, ok := bytes.Cut(s.Word(), []byte{'='})
			if !ok {
				continue
			}
			v, _ := kernel.Uint(value)
			switch string(name) {
			case "rbytes":
				row[cgIORead] += v
			case "wbytes":
				row[cgIOWrite] += v
			case "rios", "wios":
				row[cgIOs] += v
			}
		}
	}
}

// parseBlkioBytes sums blkio.throttle.io_service_bytes: "254:0 Read 123".
func parseBlkioBytes(b []byte, row []uint64) {
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		s.Word()
		what := s.Word()
		v, _ := s.Uint()
		switch string(what) {
		case "Read":
			row[cgIORead] += v
		case "Write":
			row[cgIOWrite] += v
		}
	}
}

func parseBlkioServiced(b []byte, row []uint64) {
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		s.Word()
		what := s.Word()
		v, _ := s.Uint()
		if w := string(what); w == "Read" || w == "Write" {
			row[cgIOs] += v
		}
	}
}

// pressureInto reads the totals of a pressure file (us); full may be -1.
func pressureInto(some, full int) func([]byte, []uint64) {
	return func(b []byte, row []uint64) {
		for s := kernel.Scan(b); s.More(); s.NextLine() {
			column := -1
			switch string(s.Word()) {
			case "some":
				column = some
			case "full":
				column = full
			}
			for column >= 0 && !s.EndOfLine() {
				if v, ok := bytes.CutPrefix(s.Word(), []byte("total=")); ok {
					row[column], _ = kernel.Uint(v)
				}
			}
		}
	}
}
