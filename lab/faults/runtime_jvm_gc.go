package faults

import (
	"os/exec"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var runtimeJVMGC = []lab.Fault{
	{
		Name:      "runtime.jvm_gc/explicit",
		Cause:     "runtime.jvm_gc",
		About:     "a request makes a Java service with 500 MiB of live objects collect its whole heap (serial collector)",
		MissAbout: "the same with 16 MiB of live objects",
		Needs:     program("java", "javac"),
		Run:       func(s *lab.Scene) { javaService(s, 500, "-Xmx1000m", "/gc") },
		Miss:      func(s *lab.Scene) { javaService(s, 16, "-Xmx256m", "/gc") },
	},
	{
		Name:      "runtime.jvm_gc/heap-full",
		Cause:     "runtime.jvm_gc",
		About:     "a cache fills the rest of the heap of a Java service: one full collection after the other",
		MissAbout: "the same load in a heap with room, live data small",
		Needs:     program("java", "javac"),
		Shortest:  time.Second,
		Run: func(s *lab.Scene) {
			javaService(s, 300, "-Xmx400m", "/churn/"+strconv.FormatInt(s.Length.Milliseconds(), 10))
		},
		Miss: func(s *lab.Scene) { javaService(s, 4, "-Xmx1024m", "/churn/100") },
	},
	{
		Name:      "runtime.jvm_gc/jcmd",
		Cause:     "runtime.jvm_gc",
		About:     "an operator makes a Java service with 600 MiB of live objects collect its heap, with jcmd (parallel collector)",
		MissAbout: "the same with 4 MiB of live objects",
		Needs:     program("java", "javac", "jcmd"),
		Run:       func(s *lab.Scene) { collectByHand(s, 600, "-Xmx1200m") },
		Miss:      func(s *lab.Scene) { collectByHand(s, 4, "-Xmx256m") },
	},
}

func javaService(s *lab.Scene, live int, heap, path string) {
	svc := s.Serve(victim.Spec{Kind: victim.Java, Live: live, JVM: []string{"-XX:+UseSerialGC", heap, strings.Replace(heap, "mx", "ms", 1)}}, lab.Place{})
	for range 300 { // until its code is loaded and compiled
		get(s, svc, "/")
	}
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, path) }, nil)
}

func collectByHand(s *lab.Scene, live int, heap string) {
	svc := s.Serve(victim.Spec{Kind: victim.Java, Live: live, JVM: []string{"-XX:+UseParallelGC", heap, strings.Replace(heap, "mx", "ms", 1)}}, lab.Place{})
	for range 300 { // until its code is loaded and compiled
		get(s, svc, "/")
	}
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() {
		if out, err := exec.Command("jcmd", strconv.Itoa(svc.PID), "GC.run").CombinedOutput(); err != nil {
			s.Fail("jcmd: %v: %s", err, out)
		}
	}, nil)
}
