package probes

import (
	"math/bits"
	"time"
)

// baseline is what one kind of work on one target usually takes: a histogram
// of logarithmic bins, four an octave, that forgets. It has no pointers and
// its methods neither allocate nor grow the stack, so that it can live in a
// worker's thread and in the tables of an observer.
type baseline struct {
	counts [baselineBins]uint16
	total  uint32
	beyond uint32 // samples far above the usual since the last one learned
}

const (
	baselineBins  = 108
	baselineShift = 16 // the first bins are 65.5 µs wide
	// baselineMemory is how many samples are kept before all are halved.
	baselineMemory = 2000
	// farBeyond is how many times the p99 a sample must be not to count as
	// part of the usual, and oneIn how many of those make one that does: work
	// that is always slow becomes usual, a stall does not.
	farBeyond = 4
	oneIn     = 8
)

//go:nosplit
//go:norace
func baselineBin(d int64) int {
	if d < 0 {
		d = 0
	}
	v := uint64(d) >> baselineShift
	if v < 4 {
		return int(v)
	}
	octave := bits.Len64(v) - 3 // 4..7 is octave 0
	bin := octave*4 + int(v>>octave)
	if bin >= baselineBins {
		return baselineBins - 1
	}
	return bin
}

// baselineEdge is the upper edge of a bin.
//
//go:nosplit
//go:norace
func baselineEdge(bin int) int64 {
	if bin < 4 {
		return int64(bin+1) << baselineShift
	}
	octave := bin/4 - 1
	return int64(bin%4+5) << (octave + baselineShift)
}

// p99 returns the 99th percentile, at most a quarter too long; 0 while
// nothing is known.
//
//go:nosplit
//go:norace
func (b *baseline) p99() int64 {
	if b.total == 0 {
		return 0
	}
	above := b.total / 100
	if above == 0 && b.total >= 20 {
		above = 1 // of a few dozen, one that was held up is not the usual
	}
	return b.without(above)
}

// fewSlowest are left out of what is ordinary, of a short history an eighth of
// it: they are a cold start, or a moment in which the machine did something else.
const fewSlowest = 8

// ordinary is as p99, without the few slowest of a history: a percentile of a
// hundred samples is one of them.
//
//go:nosplit
//go:norace
func (b *baseline) ordinary() time.Duration {
	return time.Duration(b.without(b.total/100 + min(fewSlowest, b.total/8)))
}

// without is the longest when some of the longest are left out.
//
//go:nosplit
//go:norace
func (b *baseline) without(above uint32) int64 {
	for bin := baselineBins - 1; bin >= 0; bin-- {
		n := uint32(b.counts[bin])
		if n > above {
			return baselineEdge(bin)
		}
		above -= n
	}
	return 0
}

// add counts one sample.
//
//go:nosplit
//go:norace
func (b *baseline) add(d int64) {
	b.counts[baselineBin(d)]++
	b.total++
	if b.total < baselineMemory {
		return
	}
	b.total = 0
	for i := range b.counts {
		b.counts[i] /= 2
		b.total += uint32(b.counts[i])
	}
}

// learn counts one sample, unless it is a stall: more than floor and far more
// than the usual. Of those only every eighth counts.
//
//go:nosplit
//go:norace
func (b *baseline) learn(d, floor int64) {
	if d > floor && d > farBeyond*b.p99() {
		b.doubt(d)
		return
	}
	b.beyond = 0
	b.add(d)
}

// doubt counts one sample in eight.
//
//go:nosplit
//go:norace
func (b *baseline) doubt(d int64) {
	b.beyond++
	if b.beyond < oneIn {
		return
	}
	b.beyond = 0
	b.add(d)
}

func (b *baseline) usual() time.Duration { return time.Duration(b.p99()) }
