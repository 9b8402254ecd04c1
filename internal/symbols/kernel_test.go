package symbols

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const kallsyms = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81001000 t __pfx_do_one_initcall
ffffffff81001010 T do_one_initcall
ffffffff81001200 W weak_name
ffffffff81001200 T __strong_name
ffffffff81001300 T __x64_sys_fsync
ffffffff81001300 t fsync_alias_longer
ffffffff81001400 T vfs_fsync_range
ffffffff82000000 D jiffies
garbage
ffffffff8100zz00 T nothing
ffffffffc0001000 t ext4_sync_file	[ext4]
ffffffffc0001100 t jbd2_log_wait_commit	[jbd2]
ffff800012340000 t bpf_prog_6deef7357e7b4530_x	[bpf]
`

func TestKernelNames(t *testing.T) {
	k, err := ReadKernel(strings.NewReader(kallsyms))
	if err != nil {
		t.Fatal(err)
	}
	for ip, want := range map[uint64]string{
		0xffffffff81000000:     "_text",
		0xffffffff81001005:     "_text", // the padding before a function has no name of its own
		0xffffffff81001010:     "do_one_initcall",
		0xffffffff810011ff:     "do_one_initcall",
		0xffffffff81001200:     "__strong_name", // a weak name gives way
		0xffffffff81001300:     "fsync_alias_longer",
		0xffffffff8100147c:     "vfs_fsync_range",
		0xffffffff82000000:     "", // data, far behind the last function
		0xffffffffc00010ff:     "ext4_sync_file [ext4]",
		0xffffffffc0001100:     "jbd2_log_wait_commit [jbd2]",
		0xffff800012340010:     "bpf_prog_6deef7357e7b4530_x [bpf]",
		0xffff800012340000 - 1: "",
		0x400000:               "",
		0:                      "",
		^uint64(0):             "",
	} {
		if got := k.Name(ip); got != want {
			t.Errorf("%#x is %q, want %q", ip, got, want)
		}
	}
	if k.Len() != 8 {
		t.Errorf("%d functions were kept, want 8", k.Len())
	}
}

func TestKernelHidden(t *testing.T) {
	hidden := "0000000000000000 T _stext\n0000000000000000 t do_one_initcall\n"
	if _, err := ReadKernel(strings.NewReader(hidden)); !errors.Is(err, ErrHidden) || !strings.Contains(err.Error(), "kptr_restrict") {
		t.Errorf("addresses of 0: %v", err)
	}
	if _, err := ReadKernel(strings.NewReader("")); err == nil || errors.Is(err, ErrHidden) {
		t.Errorf("an empty table: %v", err)
	}
	// The resolver says so once, names nothing, and tries again later.
	dir := t.TempDir()
	path := filepath.Join(dir, "kallsyms")
	if err := os.WriteFile(path, []byte(hidden), 0o644); err != nil {
		t.Fatal(err)
	}
	r := New(dir)
	now := time.Now()
	r.now = func() time.Time { return now }
	if got := r.Kernel(0xffffffff81001410); got != Unknown {
		t.Errorf("a hidden function is %q", got)
	}
	needs := r.Needs()
	if len(needs) != 1 || !strings.Contains(needs[0].Fix, "kptr_restrict") {
		t.Fatalf("needs: %+v", needs)
	}
	if err := os.WriteFile(path, []byte(kallsyms), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := r.Kernel(0xffffffff81001410); got != Unknown {
		t.Errorf("kallsyms was read again at once: %q", got)
	}
	now = now.Add(reload + 1)
	if got := r.Kernel(0xffffffff81001410); got != "vfs_fsync_range" {
		t.Errorf("after a minute: %q", got)
	}
	if len(r.Needs()) != 0 {
		t.Errorf("what has been had is still missing: %+v", r.Needs())
	}
}

func TestKernelStackLooksBeforeTheReturn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kallsyms"), []byte(kallsyms), 0o644); err != nil {
		t.Fatal(err)
	}
	// do_one_initcall's last instruction is a call that does not return.
	got := New(dir).KernelStack([]uint64{0xffffffff81001400, 0xffffffff81001200})
	if want := "vfs_fsync_range do_one_initcall"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Every function of this machine's kernel, if it shows them, must be found by
// its own address.
func TestKernelOfThisMachine(t *testing.T) {
	k, err := LoadKernel("/proc")
	if errors.Is(err, ErrHidden) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	at := make(map[uint64][]string)
	for line := range strings.Lines(string(b)) {
		if a, _, name, _, ok := parseKallsyms([]byte(strings.TrimRight(line, "\n"))); ok {
			at[a] = append(at[a], string(name))
		}
	}
	found := 0
	for a, names := range at {
		got, _, _ := strings.Cut(k.Name(a), " [")
		padding := slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "__pfx_") })
		switch {
		case slices.Contains(names, got):
			found++
		case !padding:
			t.Fatalf("%#x is %q, want one of %q", a, got, names)
		}
	}
	t.Logf("%d functions in %d KiB", k.Len(), k.Bytes()>>10)
	if found == 0 || found != k.Len() {
		t.Errorf("%d of %d functions were found", found, k.Len())
	}
}

// many is a kallsyms of n functions with names as long as a kernel
// has them, 22 characters in the mean.
func many(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for i := range n {
		at := uint64(0xffffffff81000000) + uint64(i)*112
		fmt.Fprintf(&b, "%016x t %s%07d\n", at, strings.Repeat("n", 8+r.IntN(14)), i)
	}
	return b.String()
}

func TestKernelMemory(t *testing.T) {
	k, err := ReadKernel(strings.NewReader(many(200_000)))
	if err != nil {
		t.Fatal(err)
	}
	if k.Len() != 200_000 || k.Bytes() > 6<<20 {
		t.Errorf("%d functions take %d KiB", k.Len(), k.Bytes()>>10)
	}
	t.Logf("%d functions in %d KiB", k.Len(), k.Bytes()>>10)
	ip := uint64(0xffffffff81000000)
	if n := testing.AllocsPerRun(1000, func() {
		ip += 7919
		if k.Name(ip) == "" {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("a lookup allocates %v times", n)
	}
}

func BenchmarkKernelName(b *testing.B) {
	k, err := ReadKernel(strings.NewReader(many(150_000)))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	ip := uint64(0)
	for b.Loop() {
		ip = (ip + 7919*112) % (150_000 * 112)
		if k.Name(0xffffffff81000000+ip) == "" {
			b.Fatal("not found")
		}
	}
}

func BenchmarkLoadKernel(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := LoadKernel("/proc"); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReadKernel(f *testing.F) {
	f.Add([]byte(kallsyms), uint64(0xffffffff81001010))
	f.Add([]byte("1 t a\n1 t a\t[b\x1b]\nffffffffffffffff W \xff\n"), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, ip uint64) {
		k, err := ReadKernel(strings.NewReader(string(b)))
		if err != nil {
			return
		}
		for _, at := range []uint64{ip, 0, ^uint64(0), k.ranges[0].base, k.ranges[len(k.ranges)-1].base} {
			checkName(t, k.Name(at))
		}
	})
}

// checkName fails where a name could spoil a terminal or a report.
func checkName(t *testing.T, s string) {
	t.Helper()
	if s != shown(s) || len(s) > maxName {
		t.Fatalf("%q is not fit to be shown", s)
	}
}
