package collectors

import (
	"bytes"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	interruptsCount = iota
	interruptsBusiestCPU
	interruptsBusiestCount
	interruptsWidth
)

// interrupts reads /proc/interrupts: how often each interrupt came since boot,
// and the CPU that took most of them.
type interrupts struct {
	file
	texts freezeframe.Texts
	cpus  []uint64 // the CPU of each column; those offline have none
	label []byte
}

func (c *interrupts) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "interrupts", From: "/proc/interrupts", Key: "text",
		Every: time.Second, Stalled: 250 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: []freezeframe.Column{
			interruptsCount:        {Name: "count"},
			interruptsBusiestCPU:   {Name: "busiest_cpu", Kind: freezeframe.Gauge},
			interruptsBusiestCount: {Name: "busiest_count"},
		},
	}
}

func (c *interrupts) Open(h freezeframe.Host) (err error) {
	c.texts = h.Texts
	c.label = make([]byte, 0, 256)
	if c.file, err = open(h.Proc+"/interrupts", 16<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *interrupts) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !c.parse(t, b) {
		return c.malformed
	}
	return nil
}

func (c *interrupts) parse(t *freezeframe.Table, b []byte) bool {
	s := kernel.Scan(b)
	c.cpus = scanCPUs(&s, c.cpus[:0])
	if len(c.cpus) == 0 {
		return false
	}
	for ; s.More(); s.NextLine() {
		irq, isIRQ := bytes.CutSuffix(s.Word(), []byte(":"))
		if !isIRQ {
			continue
		}
		var count, busiest, most uint64
		for _, cpu := range c.cpus { // ERR and MIS have one number for the whole machine
			v, ok := s.Uint()
			if !ok {
				break
			}
			if count += v; v > most {
				busiest, most = cpu, v
			}
		}
		if count == 0 {
			continue
		}
		c.label = append(append(c.label[:0], irq...), ' ')
		c.label = bytes.TrimRight(append(c.label, interruptName(s, irq)...), " ")
		row := t.Row(freezeframe.Key(c.texts.Intern(c.label)), interruptsWidth)
		row[interruptsCount], row[interruptsBusiestCPU], row[interruptsBusiestCount] = count, busiest, most
	}
	return true
}

// scanCPUs reads the header of /proc/interrupts and /proc/softirqs, "CPU0 CPU1
// …", and appends the numbers.
func scanCPUs(s *kernel.Scanner, cpus []uint64) []uint64 {
	for !s.EndOfLine() {
		number, _ := bytes.CutPrefix(s.Word(), []byte("CPU"))
		n, ok := kernel.Uint(number)
		if !ok {
			break
		}
		cpus = append(cpus, n)
	}
	s.NextLine()
	return cpus
}

// interruptName returns what follows the counts: for the architecture's own
// interrupts all of it ("Local timer interrupts"), for numbered ones the names
// of the handlers, without the controller and the kind of line before them:
// "IO-APIC 5-edge ACPI:Ged", "PCI-MSI 65536-edge PCIe PME",
// "GICv3 27 Level arch_timer", "xen-dyn -event eth0".
func interruptName(s kernel.Scanner, irq []byte) []byte {
	if _, numbered := kernel.Uint(irq); numbered {
		s.Word() // the controller
		for {
			before := s
			word := s.Word()
			_, digits := kernel.Uint(word)
			if !digits && !bytes.HasPrefix(word, []byte("-")) &&
				!bytes.HasSuffix(word, []byte("dge")) && !bytes.HasSuffix(word, []byte("evel")) &&
				!bytes.HasSuffix(word, []byte("-fasteoi")) {
				s = before
				break
			}
		}
	}
	return bytes.TrimSpace(s.Line())
}
