package rules

import (
	"cmp"
	"fmt"
	"slices"

	"freezeframe"
)

// A packetLoss is what happened to packets between two addresses over a span
// (the source packets): dropped for a reason, sent again, refused.
type packetLoss struct {
	what             string
	from, to         string
	fromPort, toPort int
	count            growth
	last             freezeframe.Instant
}

// packetsIn returns what happened to packets in a span, most first; keep picks
// by what it was.
func packetsIn(w freezeframe.Window, s freezeframe.Span, what ...string) []packetLoss {
	series := w.Between("packets", s)
	at := map[freezeframe.Key]int{}
	var all []packetLoss
	columns := []string{"what", "from_address", "to_address", "from_port", "to_port", "packets", "first_ns", "last_ns"}
	series.Each(columns, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		name := w.Text(v[0])
		if !slices.Contains(what, name) {
			return
		}
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			all = append(all, packetLoss{what: name, from: w.Text(v[1]), to: w.Text(v[2]), fromPort: int(v[3]), toPort: int(v[4])})
			if first := freezeframe.Instant(v[6]); first > s.Start && first <= t {
				all[i].count.add(first, 0) // all of it happened in the span
			}
		}
		all[i].count.add(t, v[5])
		all[i].last = freezeframe.Instant(v[7])
	})
	all = slices.DeleteFunc(all, func(p packetLoss) bool { return p.count.sum == 0 || p.last < s.Start })
	slices.SortStableFunc(all, func(a, b packetLoss) int {
		return cmp.Or(cmp.Compare(b.count.sum, a.count.sum), cmp.Compare(a.String(), b.String()))
	})
	return all
}

func (p *packetLoss) String() string {
	end := func(address string, port int) string {
		if port == 0 {
			return address
		}
		return fmt.Sprintf("%s port %d", address, port)
	}
	return end(p.from, p.fromPort) + " to " + end(p.to, p.toPort)
}

// between tells whether it lies on the way between a service's address (host
// and port) and a client's host; an unspecified or empty host is any.
func (p *packetLoss) between(service, client string) bool {
	port := 0
	if _, err := fmt.Sscanf(portOf(service), ":%d", &port); err != nil || port == 0 {
		return false
	}
	same := func(have, want string) bool { return want == "" || unspecified(want) || have == want }
	host, client := hostOf(service), hostOf(client)
	return p.fromPort == port && same(p.from, host) && same(p.to, client) || p.toPort == port && same(p.to, host) && same(p.from, client)
}

func unspecified(host string) bool { return host == "0.0.0.0" || host == "::" || host == "*" }
