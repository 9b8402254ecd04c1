package detectors

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/detectors/rules/windowtest"
)

// asked adds a reply that a thread of pid 7 waited for, as a reading tells when
// it is over.
func asked(w *windowtest.Window, key, tid int, address string, from, to time.Duration) {
	w.Row("requests", (to/(50*ms)+1)*50*ms, key, windowtest.V{"kind": bpf.WaitReply, "state": bpf.ToldDone, "service": address, "cookie": key, "pid": 7, "tid": tid, "peer": address, "began_at": windowtest.At(from), "done_at": windowtest.At(to)})
}

func TestEventLoopsReplyIsExact(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		return windowtest.V{"state": 'S', "wchan": "do_epoll_wait", "timeslices": 1}
	})
	asked(w, 1, 7, "10.0.0.9:5432", 2512*ms, 3731*ms)
	asked(w, 2, 7, "10.0.0.8:6379", 100*ms, 5*second) // a subscription
	a := account(t, Account(w), 7)
	exactly(t, "peer", classes(a)[freezeframe.PeerWait], 1219*ms)
	for i := range a.Waits {
		if x := &a.Waits[i]; x.Class == freezeframe.PeerWait && (x.Holder == nil || x.Holder.Address != "10.0.0.9:5432" || x.Holder.PID != 0) {
			t.Errorf("waited for %+v", x.Holder)
		}
	}
}

// Who is behind an address is known by a listener of this host, or by the other
// end of the connection.
func TestWhoIsBehindAReply(t *testing.T) {
	for name, more := range map[string]func(*windowtest.Window){
		"another host": func(*windowtest.Window) {},
		"a listener of this host": func(w *windowtest.Window) {
			w.Row("services", 3*second, 9, windowtest.V{"service": "10.0.0.9:5432", "pid": 55, "comm": "stock"})
		},
		"the other end": func(w *windowtest.Window) {
			w.Row("connections", 3*second, 1, windowtest.V{"inode": 99, "pid": 7, "local": "10.0.0.1:40000", "peer": "10.0.0.9:5432"})
			w.Row("requests", 3*second, 77, windowtest.V{"kind": bpf.WaitAnswer, "service": "0.0.0.0:5432", "cookie": 3, "pid": 55, "tid": 56, "comm": "stock", "peer": "10.0.0.1:40000", "began_at": windowtest.At(2100 * ms)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := stalled()
			sampled(w, 7, func(at time.Duration) windowtest.V {
				return windowtest.V{"state": 'S', "wchan": "wait_woken", "stack": "wait_woken<-sk_wait_data<-tcp_recvmsg", "file": "socket:[42]", "timeslices": 1}
			})
			for _, tid := range []int{55, 56} {
				sampled(w, tid, func(at time.Duration) windowtest.V {
					return windowtest.V{"pid": 55, "comm": "stock", "state": 'D', "wchan": "jbd2_log_wait_commit", "stack": "jbd2_log_wait_commit", "timeslices": 1}
				})
			}
			asked(w, 1, 7, "10.0.0.9:5432", 2100*ms, 4*second)
			asked(w, 2, 8, "10.0.0.7:80", 2*second, 4*second) // of another thread
			more(w)
			a := account(t, Account(w), 7)
			want := freezeframe.Party{Address: "10.0.0.9:5432"}
			links := 0
			switch name {
			case "a listener of this host":
				want.PID, want.Comm, links = 55, "stock", 1
			case "the other end":
				want.PID, want.TID, want.Comm, links = 55, 56, "stock", 1
			}
			want.Why = "has not answered on " + want.Address
			found := false
			for i := range a.Waits {
				if x := &a.Waits[i]; x.Class == freezeframe.PeerWait && x.Holder != nil {
					if found = true; *x.Holder != want {
						t.Errorf("held by %+v, want %+v", *x.Holder, want)
					}
				}
			}
			if !found {
				t.Errorf("nobody holds %+v", a.Waits)
			}
			if len(a.Chain) != links || links > 0 && a.Chain[0].Waits[0].Class != freezeframe.FilesystemWait {
				t.Errorf("the chain: %+v", a.Chain)
			}
		})
	}
}
