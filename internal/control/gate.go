package control

import (
	"context"
	"sync"
)

// gate bounds how many may be inside at once: in all, of all users but root,
// and of each of these.
type gate struct {
	most, others, each int

	mu       sync.Mutex
	in       int
	ordinary int // of users other than root
	byUser   map[uint32]int
	left     chan struct{} // closed when somebody leaves
}

func newGate(most, others, each int) *gate {
	return &gate{most: most, others: others, each: each, byUser: make(map[uint32]int), left: make(chan struct{})}
}

// try enters if there is room for the user.
func (g *gate) try(uid uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.room(uid)
}

func (g *gate) room(uid uint32) bool {
	if g.in >= g.most || uid != 0 && (g.ordinary >= g.others || g.byUser[uid] >= g.each) {
		return false
	}
	g.in++
	if uid != 0 {
		g.ordinary++
		g.byUser[uid]++
	}
	return true
}

// enter waits for room until ctx ends.
func (g *gate) enter(ctx context.Context, uid uint32) bool {
	for {
		g.mu.Lock()
		if g.room(uid) {
			g.mu.Unlock()
			return true
		}
		left := g.left
		g.mu.Unlock()
		select {
		case <-left:
		case <-ctx.Done():
			return false
		}
	}
}

func (g *gate) leave(uid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in--
	if uid != 0 {
		g.ordinary--
		if g.byUser[uid]--; g.byUser[uid] == 0 {
			delete(g.byUser, uid)
		}
	}
	close(g.left)
	g.left = make(chan struct{})
}
