package kernel

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNoHugePages(t *testing.T) {
	enabled := func() string {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, "THP_enabled:"); ok {
				return strings.TrimSpace(value)
			}
		}
		t.Skip("the kernel does not say whether a process gets huge pages (before Linux 5.0)")
		return ""
	}
	if enabled() == "0" {
		t.Skip("this kernel, or whoever started the test, gives no huge pages")
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
	if err := NoHugePages(); err != nil {
		t.Fatal(err)
	}
	if got := enabled(); got != "0" {
		t.Errorf("THP_enabled: %s", got)
	}
}
