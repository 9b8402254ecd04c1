package collectors

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"freezeframe"
	"freezeframe/internal/kernel"
)

func TestInterruptName(t *testing.T) {
	for _, test := range []struct{ irq, rest, want string }{
		{"24", "  IO-APIC   5-edge      ACPI:Ged", "ACPI:Ged"},
		{"38", " PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0", "virtio2-input.0"},
		{"24", "   PCI-MSI 65536-edge      PCIe PME", "PCIe PME"},
		{"16", "  IO-APIC  16-fasteoi   ehci_hcd:usb1, uhci_hcd:usb3", "ehci_hcd:usb1, uhci_hcd:usb3"},
		{"11", "     GICv3  27 Level     arch_timer", "arch_timer"},
		{"48", "  ITS-MSI 524288 Edge      nvme0q0", "nvme0q0"},
		{"70", "   xen-dyn    -event     eth0-q0-tx", "eth0-q0-tx"},
		{"5", "   IO-APIC   5-edge", ""},
		{"5", "", ""},
		{"LOC", "   Local timer interrupts", "Local timer interrupts"},
		{"ERR", "", ""},
	} {
		if got := interruptName(kernel.Scan([]byte(test.rest)), []byte(test.irq)); string(got) != test.want {
			t.Errorf("%s:%s: got %q, want %q", test.irq, test.rest, got, test.want)
		}
	}
}

// Before Linux 5.10 a line does not say its CPU.
func TestSoftnetWithoutCPU(t *testing.T) {
	line := "000000%d 00000002 00000003 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n"
	var table freezeframe.Table
	if !parseSoftnet(&table, []byte(strings.ReplaceAll(line, "%d", "1a")+strings.ReplaceAll(line, "%d", "ff"))) {
		t.Fatal("not understood")
	}
	if len(table.Keys) != 2 || table.Keys[0] != 0 || table.Keys[1] != 1 {
		t.Fatalf("keys %v, want 0 and 1", table.Keys)
	}
	if got := table.Values(1, softnetWidth); got[softnetProcessed] != 0xff || got[softnetDropped] != 2 || got[softnetTimeSqueeze] != 3 {
		t.Errorf("got %v", got)
	}
}

// The numbers follow the names when the order of the names changes under an
// open collector.
func TestNetstatFollowsItsHeader(t *testing.T) {
	c := new(netstat)
	c.prepare()
	for _, text := range []string{
		"Tcp: ActiveOpens OutRsts\nTcp: 7 9\n",
		"Tcp: OutRsts New ActiveOpens\nTcp: 9 1 7\n",
		"Icmp: X\nIcmp: 1\nTcp: OutRsts ActiveOpens\nTcp: 9 7\n",
	} {
		row := make([]uint64, c.width)
		if !c.parse(row, []byte(text)) {
			t.Fatalf("%q: not understood", text)
		}
		if row[c.column["TcpActiveOpens"]] != 7 || row[c.column["TcpOutRsts"]] != 9 {
			t.Errorf("%q: %v", text, row)
		}
	}
}

func TestConntrackAppearsAndVanishes(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(trees, "linux-5.10"))); err != nil {
		t.Fatal(err)
	}
	c := new(limits)
	if err := c.Open(hostAt(dir)); err != nil {
		t.Fatal(err)
	}
	defer closed(t, c)
	count := func() uint64 {
		var table freezeframe.Table
		if err := collect(t, c, &table); err != nil {
			t.Fatal(err)
		}
		return table.Values(0, limitsWidth)[limitsConntrackCount]
	}
	if got := count(); got != 0 {
		t.Fatalf("%d connections without conntrack", got)
	}
	if err := os.Mkdir(dir+"/proc/sys/net/netfilter", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/proc/sys/net/netfilter/nf_conntrack_count", []byte("41\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := count(); got != 41 {
		t.Errorf("%d connections after the module was loaded, want 41", got)
	}
}

// A kernel booted with psi=0 may have the files and refuse to read them; a
// directory in a file's place refuses too.
func TestPressureRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/proc/pressure/cpu", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/proc/pressure/io", []byte("some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := new(pressure)
	if err := c.Open(hostAt(dir)); err != nil {
		t.Fatal(err)
	}
	defer closed(t, c)
	needs := c.Source().Needs
	if len(needs) != 3 || !strings.HasSuffix(needs[0].What, "/cpu") || needs[0].Fix == "" {
		t.Errorf("needs %+v; want cpu, memory and irq", needs)
	}
	var table freezeframe.Table
	if err := collect(t, c, &table); err != nil || len(table.Keys) != 1 || table.Vals[pressureSome] != 12 {
		t.Errorf("%v %v", table, err)
	}
}
