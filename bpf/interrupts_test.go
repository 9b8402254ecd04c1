package bpf

import (
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"freezeframe/internal/kernel"
)

// procCounts is how often each softirq vector ran so far, by its name, and each
// numbered interrupt, on all CPUs together.
func procCounts(t *testing.T, file string) map[string]uint64 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.HasSuffix(fields[0], ":") {
			continue
		}
		name := strings.TrimSuffix(fields[0], ":")
		for _, f := range fields[1:] {
			n, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				break
			}
			out[name] += n
		}
	}
	return out
}

// softirqNames are the vectors in their order (include/linux/interrupt.h).
var softirqNames = []string{"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"}

// told sums what BPF told over all CPUs, by the names of procCounts.
func told(i *Interrupts) (count map[string]uint64, ns uint64, longest Handler) {
	count = map[string]uint64{}
	i.Each(func(softirq bool, _, number int, h Handler) {
		name := strconv.Itoa(number)
		if softirq {
			name = softirqNames[number]
		}
		count[name] += h.Count
		ns += h.Nanos
		if h.LongestNanos > longest.LongestNanos {
			longest = h
		}
	})
	return count, ns, longest
}

// TestInterruptsAreCounted sends packets over loopback and reads from a disk:
// what BPF counted is what the kernel did meanwhile.
func TestInterruptsAreCounted(t *testing.T) {
	i := load(t, "interrupts").Interrupts
	if i == nil {
		t.Fatal("no interrupts")
	}
	if !i.Running() {
		t.Fatal("not attached when it is loaded")
	}
	kernelNow := func() map[string]uint64 {
		all := procCounts(t, "/proc/softirqs")
		for name, n := range procCounts(t, "/proc/interrupts") {
			if number, err := strconv.Atoi(name); err == nil && number < i.IRQs() {
				all[name] = n
			}
		}
		return all
	}
	const packets = 3000
	outside := kernelNow()
	began := kernel.Now()
	before, nsBefore, _ := told(i)
	inside := kernelNow()
	sendLoopback(t, packets)
	readDisk(t)
	insideEnd := kernelNow()
	after, nsAfter, longest := told(i)
	ended := kernel.Now()
	outsideEnd := kernelNow()
	// A handler may be at work while it is counted, on each CPU; and an interrupt
	// that comes again before it is done is counted twice and handled once.
	cpus := uint64(possibleCPUs())
	var handled, came uint64
	for name, n := range after {
		n -= before[name]
		least, most := insideEnd[name]-inside[name], outsideEnd[name]-outside[name]
		if slices.Contains(softirqNames, name) {
			least -= min(least, cpus+least/20)
		} else {
			handled, came, least = handled+n, came+least, 0
		}
		if n < least || n > most+cpus {
			t.Errorf("%s: BPF counted %d, the kernel %d to %d", name, n, least, most)
		}
	}
	if came == 0 || handled < came/2 {
		t.Errorf("BPF counted %d interrupts, the kernel %d", handled, came)
	}
	if n := after["NET_RX"] - before["NET_RX"]; n < packets/2 {
		t.Errorf("%d times NET_RX for %d packets", n, packets)
	}
	spent, length := nsAfter-nsBefore, uint64(ended.Sub(began))
	if spent == 0 || spent > length*uint64(possibleCPUs()) {
		t.Errorf("%d ns in handlers within %d ns", spent, length)
	}
	if at := longest.LongestBegan; longest.LongestNanos == 0 || longest.LongestNanos > length || at < uint64(began) || at > uint64(ended) {
		t.Errorf("the longest: %+v, not between %d and %d", longest, began, ended)
	}
	if n := testing.AllocsPerRun(20, func() { i.Each(func(bool, int, int, Handler) {}) }); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}

// TestInterruptsEnd: detached, nothing is counted; attached again, nothing from
// the time between is.
func TestInterruptsEnd(t *testing.T) {
	i := load(t, "interrupts").Interrupts
	if i == nil {
		t.Fatal("no interrupts")
	}
	if err := i.Run(false); err != nil {
		t.Fatal(err)
	}
	before, nsBefore, _ := told(i)
	sendLoopback(t, 500)
	time.Sleep(50 * time.Millisecond)
	after, _, _ := told(i)
	for name, n := range after {
		if n != before[name] {
			t.Errorf("%s: %d more while it did not run", name, n-before[name])
		}
	}
	if i.Running() {
		t.Error("it says that it runs")
	}
	// As if it had been detached within both kinds of handlers.
	for n := range i.cpus.values {
		i.cpus.values[n] = interruptsHere{irqBegan: 1, softirqBegan: 1}
	}
	began := kernel.Now()
	if err := i.Run(true); err != nil {
		t.Fatal(err)
	}
	sendLoopback(t, 500)
	again, nsAgain, _ := told(i)
	if again["NET_RX"] == after["NET_RX"] {
		t.Error("attached again, it counts nothing")
	}
	if spent, most := nsAgain-nsBefore, uint64(kernel.Now().Sub(began))*uint64(possibleCPUs()); spent > most {
		t.Errorf("%d ns in handlers within %d ns", spent, most)
	}
}

func TestShedInterruptsStayDetached(t *testing.T) {
	p := load(t, "interrupts")
	if p.Interrupts == nil {
		t.Fatal("no interrupts")
	}
	p.Shed("interrupts", "a test")
	if err := p.Interrupts.Run(true); err != nil || p.Interrupts.Running() {
		t.Errorf("shed, and attached again (%v)", err)
	}
}

func TestLastIRQ(t *testing.T) {
	for text, want := range map[string]int{
		"":                              -1,
		"           CPU0  CPU1\nNMI: 0": -1,
		"   CPU0\n  4:  12  IO-APIC 4-edge serial\n 27:  1  PCI-MSI x\nLOC: 99\n": 27,
		"99999999999999999999: 1\n 5: 1\n":                                        5,
	} {
		if got := lastIRQ(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func sendLoopback(t *testing.T, packets int) {
	t.Helper()
	to, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	from, err := net.DialUDP("udp", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	for range packets {
		if _, err := from.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
}

// readDisk has some of a file read from its device, so that there is an
// interrupt.
func readDisk(t *testing.T) {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := kernelDrop(name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
}
