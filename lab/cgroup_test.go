package lab

import (
	"slices"
	"testing"
)

func TestOwnGroups(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"0::/system.slice/lab.service/fflab-7-svc1\n", []string{"/system.slice/lab.service/fflab-7-svc1"}},
		{"0::/system.slice/lab.service/fflab-lab\n", nil}, // the lab itself, and all that it did not place
		{"0::/system.slice/ssh.service\n", nil},
		{"5:cpu,cpuacct:/fflab-7-svc1\n4:memory:/fflab-7-svc2\n0::/user.slice\n", []string{"/fflab-7-svc1", "/fflab-7-svc2"}},
	} {
		if got := ownGroups(c.text); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

func TestV2Path(t *testing.T) {
	for text, want := range map[string]string{
		"5:cpu:/a\n0::/b/c\n": "/b/c",
		"0::/\n":              "/",
		"5:cpu:/a\n":          "",
	} {
		if got := v2Path(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestV2Limits(t *testing.T) {
	for got, want := range map[string]string{
		cpuMax(20_000, 100_000):        "20000 100000",
		cpuMax(-1, 100_000):            "max 100000",
		ioMax("7:1", ReadIOs, 2):       "7:1 riops=2",
		ioMax("7:1", ReadIOs, 0):       "7:1 riops=max",
		ioMax("7:1", ReadBytes, 8<<20): "7:1 rbps=8388608",
		v2Name("blkio"):                "io",
		v2Name("freezer"):              "",
		v2Name("cpu"):                  "cpu",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
