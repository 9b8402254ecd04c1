package symbols

import "container/list"

// cache keeps what was used last, within a number of bytes.
type cache[K comparable, V any] struct {
	max, used int
	order     *list.List // the newest first
	items     map[K]*list.Element
}

type cached[K comparable, V any] struct {
	key   K
	value V
	bytes int
}

func newCache[K comparable, V any](bytes int) *cache[K, V] {
	return &cache[K, V]{max: bytes, order: list.New(), items: make(map[K]*list.Element)}
}

func (c *cache[K, V]) get(key K) (v V, ok bool) {
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached[K, V]).value, true
}

// put keeps a value, unless it alone is larger than the cache, and drops what
// has not been used for the longest time.
func (c *cache[K, V]) put(key K, v V, bytes int) {
	c.drop(key)
	bytes += 160 // the element, and its place in the map
	if bytes > c.max {
		return
	}
	c.items[key] = c.order.PushFront(&cached[K, V]{key, v, bytes})
	c.used += bytes
	for c.used > c.max {
		c.drop(c.order.Back().Value.(*cached[K, V]).key)
	}
}

func (c *cache[K, V]) drop(key K) {
	if e, ok := c.items[key]; ok {
		c.used -= e.Value.(*cached[K, V]).bytes
		c.order.Remove(e)
		delete(c.items, key)
	}
}
