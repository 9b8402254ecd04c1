package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Mapped is a device of the device mapper over a loop device: its table decides
// how the disk behaves.
type Mapped struct {
	Device  string // /dev/mapper/fflab-…
	Name    string // dm-3
	under   *LoopFS
	name    string
	sectors int
	s       *Scene
}

// NeedsMapper says why this machine has no device mapper with a target.
func NeedsMapper(target string) error {
	if _, err := exec.LookPath("dmsetup"); err != nil {
		return fmt.Errorf("needs dmsetup: %w", err)
	}
	// What is a module is loaded when a table needs it; without it there is none.
	_ = exec.Command("modprobe", "dm-"+target).Run()
	out, err := exec.Command("dmsetup", "targets").CombinedOutput()
	if err != nil {
		return fmt.Errorf("needs the device mapper: %s", strings.TrimSpace(string(out)))
	}
	if !strings.Contains(string(out), target+" ") {
		return fmt.Errorf("needs the device mapper's target %s", target)
	}
	return nil
}

// Mapped makes one that passes everything on.
func (s *Scene) Mapped(megabytes int) *Mapped {
	m := &Mapped{under: s.Loop(megabytes), name: s.Name("disk"), sectors: megabytes << 11, s: s}
	s.lab.janitor.later("unmap", m.name)
	s.Check(command("dmsetup", "create", m.name, "--table", m.table("linear %s 0")))
	m.Device = "/dev/mapper/" + m.name
	real, err := os.Readlink(m.Device)
	if err != nil { // without udev it is a node of its own
		real = m.Device
	}
	m.Name = real[strings.LastIndexByte(real, '/')+1:]
	return m
}

func (m *Mapped) table(target string) string {
	return "0 " + strconv.Itoa(m.sectors) + " " + fmt.Sprintf(target, m.under.Device)
}

// Behave exchanges the table: "delay %s 0 150" is 150 ms for each request, "%s"
// the device below. What is in flight is not waited for.
func (m *Mapped) Behave(target string) {
	m.s.Check(command("dmsetup", "load", m.name, "--table", m.table(target)))
	m.Suspend()
	m.Resume()
}

// Suspend keeps every request from now on; the filesystem is not told.
func (m *Mapped) Suspend() {
	m.s.Check(command("dmsetup", "suspend", "--nolockfs", "--noflush", m.name))
}

// Resume lets them go.
func (m *Mapped) Resume() { m.s.Check(command("dmsetup", "resume", m.name)) }

// Blamed is who may be blamed for it: the device, or the one below.
func (m *Mapped) Blamed() Guilty {
	return Guilty{Devices: []string{m.Name, m.name, m.under.Name}, Host: true}
}

// unmap removes a device, however its table is.
func unmap(a []string) error {
	if exec.Command("dmsetup", "info", a[0]).Run() != nil {
		return nil
	}
	_ = exec.Command("dmsetup", "resume", a[0]).Run() // a suspended one cannot be removed
	return command("dmsetup", "remove", "--retry", a[0])
}
