package rules_test

import (
	"testing"

	"freezeframe"
)

func TestWeights(t *testing.T) {
	weight := func(w *window, name string, v1 int) { group(w, name, nil, v{"cpu_weight": v1}) }
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause
		culprit freezeframe.Culprit
	}{
		"the winner is nicer than nice":  {func(w *window) { outweighed(w, 4, v{}, v{"nice": ^uint64(9)}) }, "cpu.low_weight", process(hog)},
		"so many that nobody has enough": {func(w *window) { outweighed(w, 40, v{"nice": 19}, v{}) }, "cpu.contention", process(hog)},
		"two steps of nice are not it":   {func(w *window) { outweighed(w, 4, v{"nice": 2}, v{}) }, "cpu.contention", process(hog)},
		"the victim is the heavier one":  {func(w *window) { outweighed(w, 4, v{"nice": ^uint64(9)}, v{"nice": 19}) }, "cpu.contention", process(hog)},
		"cgroups of version 1": {func(w *window) {
			outweighed(w, 4, v{"cgroup": "3:cpu,cpuacct:/web/orders;0::/"}, v{"cgroup": "3:cpu,cpuacct:/batch;0::/"})
			weight(w, "cpu:/web", 10)
			weight(w, "cpu:/web/orders", 1024)
			weight(w, "cpu:/batch", 1024)
		}, "cpu.low_weight", freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/batch", PID: hog}},
		"cgroups of version 2, deep inside": {func(w *window) {
			outweighed(w, 4, v{"cgroup": "0::/system.slice/orders.service"}, v{"cgroup": "0::/system.slice/batch.service"})
			weight(w, "/system.slice/orders.service", 10)
			weight(w, "/system.slice/batch.service", 100)
		}, "cpu.low_weight", freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/system.slice/batch.service"}},
		"a heavier cgroup that nice does not change": {func(w *window) {
			outweighed(w, 4, v{"cgroup": "0::/a/orders", "nice": 19}, v{"cgroup": "0::/b/batch"})
			weight(w, "/a", 100)
			weight(w, "/b", 100)
		}, "cpu.contention", process(hog)},
	} {
		t.Run(name, func(t *testing.T) { verdict(t, build(x.scene), x.cause, x.culprit) })
	}
}
