package rules

import (
	"fmt"

	"freezeframe"
)

func limitMemoryMaps() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.memory_maps",
		Title: "a process out of memory maps",
		Means: "The process had as many separate maps of its memory as the machine allows (vm.max_map_count). Whatever needs another one, or divides one, failed with ENOMEM though memory was left: allocating, loading a library, starting a thread.",
		Proof: "Mapping memory failed with ENOMEM in a process whose number of maps stood at vm.max_map_count. Told from mem.overcommit_refused by that number.",
		Remedy: []string{
			"Now: `sysctl -w vm.max_map_count=1048576`; `wc -l /proc/PID/maps` and `awk '{print $6}' /proc/PID/maps | sort | uniq -c | sort -n | tail` show what they are.",
			"So that it does not come back: the same in /etc/sysctl.d; larger files instead of many that are mapped (indexes, segments), fewer threads, an allocator that keeps its arenas together.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "failures.failures", "failures.errno", "procs.maps", "procs.ppid", "limits.max_map_count"},
		Subsumes: []freezeframe.Cause{"app.busy_loop", "app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive", "mem.overcommit_refused"},
		Judge:    judgeMemoryMaps,
	}
}

// mapsFull is the part of vm.max_map_count from which on it counts as reached:
// who is refused gives some back, and a thread's stack needs two.
const mapsFull = 0.99

func judgeMemoryMaps(w freezeframe.Window) []freezeframe.Finding {
	s := around(w.Stall().Span)
	limits := w.Between("limits", s)
	most := limits.Max(0, "max_map_count")
	if most == 0 {
		return nil
	}
	ps := processesIn(w, s)
	list := refusedIn(w, s, "ENOMEM", append(mapping, starting...)...)
	var out []freezeframe.Finding
	for _, p := range ps.list {
		if ps.byPID[p.pid] != p || float64(p.maps) < mapsFull*float64(most) {
			continue
		}
		var mine []refused
		for _, r := range list {
			if r.pid == p.pid {
				mine = append(mine, r)
			}
		}
		claim, sure := lateOf(w, ps, mine), proven
		if len(mine) == 0 {
			if counting(w, s) {
				continue
			}
			claim, sure = retrying(w, p.pid), counted
		}
		if claim = worth(w, claim); claim == nil {
			continue
		}
		out = append(out, freezeframe.Finding{
			Culprit: p.culprit(), Explains: claim, Confidence: sure,
			Summary:  fmt.Sprintf("%s had %d memory maps, as many as it may (%d); more were refused though memory was left.", p, p.maps, most),
			Evidence: append(refusals(mine), evidence("procs", "maps", "%d memory maps, vm.max_map_count is %d", p.maps, most)),
			Remedy:   []string{fmt.Sprintf("`sysctl -w vm.max_map_count=%d`", 4*most)},
		})
	}
	return out
}
