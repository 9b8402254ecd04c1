package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const yamlFile = `
probes:
  fsync:
    skip: [/data, "/mnt/a b"]
  network_mounts: true
  http: ["http://127.0.0.1:8000/health"]
ring:
  bytes: 33554432
stall: {quiet: 750ms}
log: {level: debug}
`

func TestLoad(t *testing.T) {
	defaults, err := Load(Sources{Default: "/nonexistent/config.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Sampling: Sampling{true}, BPF: BPF{Enabled: true, Budget: 0.02}, Ring: Ring{24 << 20}, Stall: Stall{700 * time.Millisecond}, Log: Log{"warn"},
		Daemon:  Daemon{StateDir: "/var/lib/freezeframe", Socket: "/run/freezeframe/control.sock"},
		Box:     Box{Bytes: 1 << 30, Age: 14 * day, FreeFloor: 512 << 20, Sync: 3 * time.Second, Full: 15 * time.Minute},
		Archive: Archive{Bytes: 512 << 20, Age: 90 * day},
	}
	if diff := cmp.Diff(want, defaults); diff != "" {
		t.Errorf("defaults:\n%s", diff)
	}
	want.Probes = Probes{Fsync: Fsync{Skip: []string{"/data", "/mnt/a b"}}, NetworkMounts: true, HTTP: []string{"http://127.0.0.1:8000/health"}}
	want.Ring.Bytes, want.Stall.Quiet, want.Log.Level = 32<<20, 750*time.Millisecond, "debug"
	toml := "[probes]\nnetwork_mounts = true\nhttp = [\"http://127.0.0.1:8000/health\"]\n[probes.fsync]\nskip = [\"/data\", \"/mnt/a b\"]\n[ring]\nbytes = 33554432\n[stall]\nquiet = \"750ms\"\n[log]\nlevel = \"debug\"\n"
	for _, path := range []string{write(t, "c.yaml", yamlFile), write(t, "c", yamlFile), write(t, "c.toml", toml)} {
		got, err := Load(Sources{File: path})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", path, diff)
		}
		if got, err = Load(Sources{Default: path}); err != nil || got.Log.Level != "debug" {
			t.Errorf("%s as the default file: %v %v", path, got, err)
		}
	}
}

func TestMetricsAreForThisMachineUnlessSaid(t *testing.T) {
	for in, want := range map[string]string{
		"daemon: {metrics: '127.0.0.1:9464'}":                     "127.0.0.1:9464",
		"daemon: {metrics: '[::1]:9464'}":                         "[::1]:9464",
		"daemon: {metrics: 'localhost:9464'}":                     "localhost:9464",
		"daemon: {metrics: /run/freezeframe/metrics.sock}":        "/run/freezeframe/metrics.sock",
		"daemon: {metrics: '0.0.0.0:9464', metrics_remote: true}": "0.0.0.0:9464",
		"daemon: {metrics_remote: true, metrics: ':9464'}":        ":9464",
	} {
		if c, err := Load(Sources{File: write(t, "c.yaml", in)}); err != nil || c.Daemon.Metrics != want {
			t.Errorf("%s: %q, %v", in, c.Daemon.Metrics, err)
		}
	}
	c, err := Load(Sources{Environ: []string{"FREEZEFRAME_BOX_AGE=36h", "FREEZEFRAME_ARCHIVE_AGE=2d", "FREEZEFRAME_DAEMON_STATE_DIR=/srv//ff/"}})
	if err != nil || c.Box.Age != 36*time.Hour || c.Archive.Age != 48*time.Hour || c.Daemon.StateDir != "/srv/ff" {
		t.Errorf("%+v %+v %+v %v", c.Box, c.Archive, c.Daemon, err)
	}
}

func TestPrecedence(t *testing.T) {
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	flags.StringArray("http", nil, "")
	flags.String("level", "", "")
	s := Sources{
		File:    write(t, "c.yaml", yamlFile),
		Environ: []string{"HOME=/", "FREEZEFRAME_LOG_LEVEL=info", "FREEZEFRAME_STALL_QUIET=2s", "FREEZEFRAME_PROBES_TCP=a:1, b:2", "FREEZEFRAME_SAMPLING_REALTIME=false"},
		Flags:   map[string]*pflag.Flag{"probes.http": flags.Lookup("http"), "log.level": flags.Lookup("level")},
	}
	got, err := Load(s)
	if err != nil {
		t.Fatal(err)
	}
	if got.Log.Level != "info" || got.Stall.Quiet != 2*time.Second || len(got.Probes.TCP) != 2 || got.Probes.TCP[1] != "b:2" || got.Sampling.Realtime || got.Probes.HTTP[0] != "http://127.0.0.1:8000/health" {
		t.Errorf("variables must win over the file: %+v", got)
	}
	if err := flags.Parse([]string{"--level", "error", "--http", "http://x/?a=1,2", "--http", "https://y"}); err != nil {
		t.Fatal(err)
	}
	if got, err = Load(s); err != nil || got.Log.Level != "error" || len(got.Probes.HTTP) != 2 || got.Probes.HTTP[0] != "http://x/?a=1,2" {
		t.Errorf("flags must win over all: %+v %v", got, err)
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		"probs: {fsync: {skip: []}}":                `unknown key "probs.fsync.skip": did you mean "probes.fsync.skip"?`,
		"probes: {fsync: {skp: [/a]}}":              `unknown key "probes.fsync.skp": did you mean "probes.fsync.skip"?`,
		"daemon: {state_dir: lib}":                  `key "daemon.state_dir": want an absolute path, got the text "lib"`,
		"daemon: {socket: ''}":                      `key "daemon.socket": want an absolute path`,
		"daemon: {metrics: 9464}":                   `key "daemon.metrics": want a text, got the number 9464`,
		"daemon: {metrics: ':9464'}":                `key "daemon.metrics": ":9464" can be reached from other machines: use 127.0.0.1:9464, or set daemon.metrics_remote: true`,
		"daemon: {metrics: '10.0.0.1:9464'}":        `can be reached from other machines`,
		"daemon: {metrics: 'localhost.example:80'}": `can be reached from other machines`,
		"daemon: {metrics: '127.0.0.1:0'}":          `key "daemon.metrics": want 127.0.0.1:PORT, the absolute path of a Unix socket, or nothing`,
		"daemon: {metrics: run/m.sock}":             `key "daemon.metrics": want 127.0.0.1:PORT`,
		"box: {age: 14}":                            `key "box.age": want a time from 1h0m0s to 3650d, such as 36h or 14d, got the number 14`,
		"box: {age: 99999d}":                        `key "box.age": want a time from`,
		"box: {age: -1d}":                           `key "box.age": want a time from`,
		"box: {sync: 6s}":                           `key "box.sync": want a time from 500ms to 5s`,
		"box: {bytes: 1}":                           `key "box.bytes": want a whole number from 16777216`,
		"archive: {bites: 1}":                       `unknown key "archive.bites": did you mean "archive.bytes"?`,
		"probs:":                                    `unknown key "probs": did you mean "probes"?`,
		"probez: {}":                                `unknown key "probez": did you mean "probes"?`,
		"probes: {fsink: {}}":                       `unknown key "probes.fsink"`,
		"output: {dir: {}}":                         `want a`,
		"quiet: 1s":                                 `unknown key "quiet": did you mean "stall.quiet"?`,
		"entirely: else":                            `unknown key "entirely": the keys are probes.fsync.skip, `,
		"probes: {network_mounts: maybe}":           `key "probes.network_mounts": want true or false, got the text "maybe"`,
		"probes: {network_mounts: 1}":               `key "probes.network_mounts": want true or false, got the number 1`,
		"probes: 5":                                 `key "probes": want a section with keys below it, got the number 5`,
		"probes: {http: 'http://x/'}":               `key "probes.http": want a list of texts, got the text "http://x/"`,
		"probes: {http: [1]}":                       `key "probes.http": entry 1: want a text, got the number 1`,
		"probes: {http: ['ftp://x']}":               `want a URL such as`,
		"probes: {tcp: ['localhost']}":              `want host:port`,
		"probes: {tcp: ['localhost:99999']}":        `want host:port`,
		"probes: {fsync: {skip: [data]}}":           `want an absolute path, got the text "data"`,
		"ring: {bytes: 24MiB}":                      `key "ring.bytes": want a whole number from 8388608 to 1073741824, got the text "24MiB"`,
		"ring: {bytes: 1}":                          `got the number 1`,
		"ring: {bytes: 9.5e6}":                      `want a whole number`,
		"stall: {quiet: 2}":                         `key "stall.quiet": want a time from 100ms to 1m0s, such as 500ms or 2s, got the number 2`,
		"stall: {quiet: 1h}":                        `got the text "1h"`,
		"log: {level: loud}":                        `want one of debug, info, warn, error, got the text "loud"`,
		"log: [1":                                   `read the configuration`,
		"output: {dir: {a: b}}":                     `unknown key "output.dir.a"`,
		"probes: {tcp: ['\x1b[2J:1']}\nlog: 1":      `read the configuration`,
	} {
		path := write(t, "c.yaml", in)
		_, err := Load(Sources{File: path})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one that says %q", in, err, want)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%q: the error does not name the file: %v", in, err)
		}
	}
	for in, want := range map[string]string{
		"FREEZEFRAME_LOG_LEVL=info":             "did you mean FREEZEFRAME_LOG_LEVEL?",
		"FREEZEFRAME_ZEBRA=1":                   "the variables are FREEZEFRAME_PROBES_FSYNC_SKIP",
		"FREEZEFRAME_RING_BYTES=lots":           `variable FREEZEFRAME_RING_BYTES: key "ring.bytes": want a whole number from 8388608 to 1073741824, got "lots"`,
		"FREEZEFRAME_PROBES_NETWORK_MOUNTS=yep": `want true or false, got "yep"`,
	} {
		if _, err := Load(Sources{Environ: []string{in}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", in, err, want)
		}
	}
	if _, err := Load(Sources{File: "/nonexistent/x.yaml"}); err == nil || !strings.Contains(err.Error(), "/nonexistent/x.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Load(Sources{File: t.TempDir()}); err == nil {
		t.Error("a directory was read as a file")
	}
}

func FuzzFile(f *testing.F) {
	f.Add(yamlFile)
	f.Add("probes: {<<: *x}")
	f.Fuzz(func(t *testing.T, content string) {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Sources{File: path})
		if err == nil && (c.Ring.Bytes < 8<<20 || c.Stall.Quiet < 100*time.Millisecond) {
			t.Errorf("%q was read as %+v", content, c)
		}
	})
}
