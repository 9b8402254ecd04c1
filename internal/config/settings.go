package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Setting is a key as people read of it: in the manual page and in the file
// that a package installs.
type Setting struct {
	Name     string // probes.fsync.skip
	About    string // what it does, a sentence or two
	Wants    string // what a value has to be, in the words of the error that refuses another
	Default  string // as it is written in the file
	Variable string // FREEZEFRAME_PROBES_FSYNC_SKIP
}

// about says what each key does; a test holds it against keys.
var about = map[string]string{
	"probes.fsync.skip":     "Mount points of local filesystems that the probe which syncs a small file must not touch. The file is .freezeframe-sync-0: in daemon.state_dir, else in /var/tmp, where these are on the filesystem, else in its root.",
	"probes.network_mounts": "Sync a small file on network and FUSE filesystems too. Their server sees these writes.",
	"probes.http":           "URLs to get again and again, as a user would. Without any, no request is sent to a service.",
	"probes.tcp":            "Addresses, host:port, to connect to again and again.",
	"sampling.realtime":     "Run at real-time priority where that is allowed, so that whatever starves the machine does not starve the recording.",
	"bpf.enabled":           "Use programs in the kernel where they are allowed. Without them, waits at services are inferred from samples.",
	"bpf.without":           "Families of these programs that are left out; freezeframe check lists them with what each costs.",
	"bpf.budget_pct":        "How much of one CPU, in percent, the programs in the kernel may take together before the dearest family is taken out. 0: no bound.",
	"ring.bytes":            "Memory that readings are kept in until they are judged or written.",
	"stall.quiet":           "How long nothing must be late before a stall is over. Stalls that are closer together become one report.",
	"output.dir":            "Directory that gets the JSON, the HTML and the recording of each stall; empty: none.",
	"log.level":             "What is logged to standard error.",

	"daemon.state_dir":      "Directory of the daemon that holds the black box (box) and the reports (reports).",
	"daemon.socket":         "Socket at which the other verbs ask the daemon.",
	"daemon.metrics":        "Where the daemon serves metrics for Prometheus: host:port, or the path of a Unix socket; empty: nowhere.",
	"daemon.metrics_remote": "Let daemon.metrics be an address that other machines reach.",
	"box.bytes":             "The most that the recording on disk takes; the oldest goes first.",
	"box.age":               "The oldest reading that is kept on disk.",
	"box.free_floor_bytes":  "What has to stay free on the filesystem of the recording: below, nothing is written, and the oldest is given up.",
	"box.sync":              "How often the recording reaches the disk: what a power cut costs.",
	"box.full":              "How long everything is kept at the full rate, before what is not around a stall is thinned.",
	"archive.bytes":         "The most that the reports on disk take; the oldest goes first.",
	"archive.age":           "The oldest report that is kept on disk.",
}

// Settings describes every key, in the order of the list.
func Settings() []Setting {
	var all []Setting
	for _, k := range keys() {
		all = append(all, Setting{Name: k.name, About: about[k.name], Wants: k.wants(), Default: written(k.value), Variable: variable(k.name)})
	}
	return all
}

// wants asks the key itself: it refuses what is of no type that a file can hold.
func (k key) wants() string {
	var c Config
	err := k.set(&c, struct{}{})
	if w, ok := errors.AsType[*wantError](err); ok {
		return w.what
	}
	return ""
}

// written is a default as a YAML file has it, on one line.
func written(value any) string {
	switch v := value.(type) {
	case string:
		if v == "" || strings.Trim(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") != "" {
			return strconv.Quote(v)
		}
		return v
	case []any:
		var parts []string
		for _, e := range v {
			parts = append(parts, written(e))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(value)
}

// Sample is a configuration file in which every key stands with its default,
// commented out.
func Sample() string {
	var b strings.Builder
	b.WriteString("# Configuration of freezeframe: freezeframe.yaml(5).\n" +
		"# Every key is shown with its default. To change one, take away the \"#\" before\n" +
		"# it and before the sections it stands in.\n")
	var above []string
	for _, s := range Settings() {
		parts := strings.Split(s.Name, ".")
		same := 0
		for same < len(parts)-1 && same < len(above) && parts[same] == above[same] {
			same++
		}
		if same == 0 {
			b.WriteString("\n")
		}
		for i := same; i < len(parts)-1; i++ {
			fmt.Fprintf(&b, "#%s%s:\n", strings.Repeat("  ", i), parts[i])
		}
		above = parts[:len(parts)-1]
		indent := strings.Repeat("  ", len(parts)-1)
		for _, line := range wrap(s.About+" Wants "+s.Wants+".", 88) {
			fmt.Fprintf(&b, "#%s# %s\n", indent, line)
		}
		fmt.Fprintf(&b, "#%s%s: %s\n", indent, parts[len(parts)-1], s.Default)
	}
	return b.String()
}

// wrap breaks a text into lines of at most so many bytes, where words allow.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
