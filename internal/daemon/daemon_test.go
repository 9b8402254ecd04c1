package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"freezeframe/internal/config"
)

func TestWhatNeedsAnotherWatch(t *testing.T) {
	base := configIn(t, t.TempDir())
	for name, x := range map[string]struct {
		change func(*config.Config)
		want   bool
	}{
		"nothing":        {func(*config.Config) {}, false},
		"log level":      {func(c *config.Config) { c.Log.Level = "debug" }, false},
		"quiet":          {func(c *config.Config) { c.Stall.Quiet = time.Second }, false},
		"http":           {func(c *config.Config) { c.Probes.HTTP = []string{"http://127.0.0.1/"} }, false},
		"tcp":            {func(c *config.Config) { c.Probes.TCP = []string{"127.0.0.1:1"} }, false},
		"metrics":        {func(c *config.Config) { c.Daemon.Metrics = "127.0.0.1:1" }, false},
		"box":            {func(c *config.Config) { c.Box.Bytes++ }, false},
		"archive":        {func(c *config.Config) { c.Archive.Age++ }, false},
		"fsync skip":     {func(c *config.Config) { c.Probes.Fsync.Skip = []string{"/data"} }, true},
		"network mounts": {func(c *config.Config) { c.Probes.NetworkMounts = true }, true},
		"real time":      {func(c *config.Config) { c.Sampling.Realtime = false }, true},
		"bpf":            {func(c *config.Config) { c.BPF.Enabled = false }, true},
		"bpf families":   {func(c *config.Config) { c.BPF.Without = []string{"locks"} }, true},
		"bpf budget":     {func(c *config.Config) { c.BPF.Budget = 0.5 }, true},
		"ring":           {func(c *config.Config) { c.Ring.Bytes *= 2 }, true},
	} {
		c := base
		x.change(&c)
		if got := anew(base, c); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOOMScore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "oom_score_adj")
	for have, want := range map[string]string{"0\n": "-900", "-1000\n": "-1000\n", "-900": "-900", "garbage": "-900"} {
		if err := os.WriteFile(path, []byte(have), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := setOOMScore(path, oomScore); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q became %q, want %q (%v)", have, got, want, err)
		}
	}
	if err := setOOMScore(filepath.Join(path, "nothing"), oomScore); err == nil || !strings.Contains(err.Error(), "OOM score") {
		t.Errorf("a score that cannot be set: %v", err)
	}
}
