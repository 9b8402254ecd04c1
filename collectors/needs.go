package collectors

import (
	"slices"
	"sync/atomic"

	"freezeframe"
)

// needs is what a source could not get, where that turns out only later and on
// another goroutine than the one that reads it.
type needs struct {
	list atomic.Pointer[[]freezeframe.Need]
}

// add notes a need; the same one again replaces the older.
func (n *needs) add(need freezeframe.Need) {
	for {
		old := n.list.Load()
		var list []freezeframe.Need
		if old != nil {
			list = slices.Clone(*old)
		}
		i := slices.IndexFunc(list, func(have freezeframe.Need) bool { return have.What == need.What })
		if i < 0 {
			list = append(list, need)
		} else if list[i] == need {
			return
		} else {
			list[i] = need
		}
		if n.list.CompareAndSwap(old, &list) {
			return
		}
	}
}

// all returns what was noted so far.
func (n *needs) all() []freezeframe.Need {
	if list := n.list.Load(); list != nil {
		return *list
	}
	return nil
}
