package rules

import (
	"fmt"
	"strings"
	"time"

	"freezeframe"
)

func fsNFSUnresponsive() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.nfs_unresponsive",
		Title: "an NFS server that does not answer",
		Means: "A network filesystem's server did not answer. On a hard mount (the default) everything that touches a file there waits until it does.",
		Proof: "The victims slept in rpc_wait_bit_killable or an nfs_ function, and the kernel's line \"nfs: server … not responding\" where it was written yet.",
		Remedy: []string{
			"Now: see whether the server answers (`rpcinfo -t SERVER nfs`, `showmount -e SERVER`); those who wait can be killed with SIGKILL.",
			"So that it does not come back: soft or softerr mounts with timeo= for what may fail; automount, so that an unused mount is not there; no NFS in the path of a service's requests.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "mounts.fstype", "mounts.source", "mounts.mountpoint", freezeframe.EventKernelLog},
		Subsumes: bringsAbout("runtime.jvm_gc", "mem.file_thrash"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			ms := roots(w, func(m *moment) bool {
				return !inClass(freezeframe.OnCPU, freezeframe.Runnable, freezeframe.Idle)(m) && in(m.wait, "rpc_wait_bit_killable", "rpc_wait_*", "__rpc_execute", "nfs_*", "nfs4_*", "__nfs*")
			})
			told := symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "nfs server not responding") })
			claim := worth(w, freezeframe.Union(append(told, ms.spans()...)...))
			if claim == nil {
				return nil
			}
			f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
			var shares []mount
			for _, mt := range mounts(w, around(w.Stall().Span)) {
				if strings.HasPrefix(mt.fstype, "nfs") {
					shares = append(shares, mt)
				}
			}
			long := ms.longest()
			var mt *mount
			if long != nil {
				mt = mountOfMoment(w, shares, long)
			}
			if mt == nil && len(shares) == 1 {
				mt = &shares[0]
			}
			server := ""
			if mt != nil {
				server = word(mt.source, ":")
				f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: mt.point, Address: server}
			}
			if line := logged(w, 3*time.Minute, "not responding, still trying", "not responding, timed out"); line != nil && strings.Contains(line.Text, "server ") {
				rest, _ := after(line.Text, "server ")
				f.Confidence, server = proven, word(rest, " ")
				f.Culprit.Address = server
				f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text)))
			}
			if long != nil {
				f.Evidence = append(f.Evidence, evidence("tasks", "stack", "slept in %s", quote(orElse(long.wait.Stack, long.wait.Wchan))))
			}
			f.Summary = fmt.Sprintf("%s did not answer for %s.", orElse(server, "An NFS server"), length(claim.Length()))
			return []freezeframe.Finding{f}
		},
	}
}
