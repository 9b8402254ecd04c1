// Package config is the only door to viper. It reads one typed Config from,
// in order of precedence, flags, FREEZEFRAME_* variables, a file, and the
// defaults, and it is strict: a key that nobody reads is an error.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"freezeframe/bpf"
	"freezeframe/internal/nearest"
)

// DefaultFile is read when no file is named and it exists.
const DefaultFile = "/etc/freezeframe/config.yaml"

// envPrefix begins the name of every variable that is read: probes.http is
// FREEZEFRAME_PROBES_HTTP.
const envPrefix = "FREEZEFRAME_"

// Config is everything that can be configured.
type Config struct {
	Probes   Probes
	Sampling Sampling
	BPF      BPF
	Ring     Ring
	Stall    Stall
	Daemon   Daemon
	Box      Box
	Archive  Archive
	Output   Output
	Log      Log
}

// Probes says what is tried, and where nothing may be.
type Probes struct {
	Fsync         Fsync
	NetworkMounts bool     // probes.network_mounts: fsync on network and FUSE mounts too
	HTTP          []string // probes.http: URLs to get
	TCP           []string // probes.tcp: host:port to connect to
}

// Fsync is the probe that writes a small file on each local filesystem.
type Fsync struct {
	Skip []string // probes.fsync.skip: mount points it must not touch
}

// Sampling says how readings are taken.
type Sampling struct {
	Realtime bool // sampling.realtime: real-time priority, where it can be had
}

// BPF says which programs may run in the kernel.
type BPF struct {
	Enabled bool     // bpf.enabled: whether any may
	Without []string // bpf.without: families that are left out: waits, requests …
	// Budget is bpf.budget_pct: how much of one CPU all programs together may
	// take, 0.01 for a percent, before the dearest is taken out. 0: no bound.
	Budget float64
}

// Ring is the memory that readings are kept in.
type Ring struct {
	Bytes int // ring.bytes
}

// Stall says what belongs to one stall.
type Stall struct {
	Quiet time.Duration // stall.quiet: how long nothing must be late before it is over
}

// Daemon says where the daemon keeps things and where it can be asked.
type Daemon struct {
	StateDir string // daemon.state_dir: holds the black box and the reports
	Socket   string // daemon.socket: the control socket
	// Metrics is daemon.metrics: where metrics are served, host:port or the
	// path of a Unix socket; "" serves none.
	Metrics string
	// MetricsRemote is daemon.metrics_remote: other machines may ask for them.
	MetricsRemote bool
}

// Box is the recording on disk.
type Box struct {
	Bytes     int64         // box.bytes: the most it takes
	Age       time.Duration // box.age: the oldest reading kept
	FreeFloor int64         // box.free_floor_bytes: what must stay free on its filesystem
	Sync      time.Duration // box.sync: how often it reaches the disk
	Full      time.Duration // box.full: how long everything is kept at the full rate
}

// Archive is the reports on disk.
type Archive struct {
	Bytes int64         // archive.bytes: the most they take
	Age   time.Duration // archive.age: the oldest report kept
}

// Output is where reports go.
type Output struct {
	Dir string // output.dir: "" writes none
}

// Log is how much is logged to standard error.
type Log struct {
	Level string // log.level: debug, info, warn or error
}

// key is one setting: its name, its default, and how its value is read.
type key struct {
	name  string
	value any // the default, in the form the file gives it
	set   func(*Config, any) error
}

// keys is every key there is.
func keys() []key {
	return []key{
		{"probes.fsync.skip", []any{}, list(func(c *Config, v []string) { c.Probes.Fsync.Skip = v }, absolute)},
		{"probes.network_mounts", false, boolean(func(c *Config, v bool) { c.Probes.NetworkMounts = v })},
		{"probes.http", []any{}, list(func(c *Config, v []string) { c.Probes.HTTP = v }, httpURL)},
		{"probes.tcp", []any{}, list(func(c *Config, v []string) { c.Probes.TCP = v }, hostPort)},
		{"sampling.realtime", true, boolean(func(c *Config, v bool) { c.Sampling.Realtime = v })},
		{"bpf.enabled", true, boolean(func(c *Config, v bool) { c.BPF.Enabled = v })},
		{"bpf.without", []any{}, list(func(c *Config, v []string) { c.BPF.Without = v }, bpfFamily)},
		{"bpf.budget_pct", 2.0, percent(func(c *Config, v float64) { c.BPF.Budget = v }, 100)},
		{"ring.bytes", 24 << 20, integer(func(c *Config, v int) { c.Ring.Bytes = v }, 8<<20, 1<<30)},
		{"stall.quiet", "700ms", duration(func(c *Config, v time.Duration) { c.Stall.Quiet = v }, 100*time.Millisecond, time.Minute)},
		{"daemon.state_dir", "/var/lib/freezeframe", path(func(c *Config, v string) { c.Daemon.StateDir = v })},
		{"daemon.socket", "/run/freezeframe/control.sock", path(func(c *Config, v string) { c.Daemon.Socket = v })},
		{"daemon.metrics", "", text(func(c *Config, v string) { c.Daemon.Metrics = v })},
		{"daemon.metrics_remote", false, boolean(func(c *Config, v bool) { c.Daemon.MetricsRemote = v })},
		{"box.bytes", 1 << 30, integer(func(c *Config, v int) { c.Box.Bytes = int64(v) }, 16<<20, 1<<40)},
		{"box.age", "14d", duration(func(c *Config, v time.Duration) { c.Box.Age = v }, time.Hour, 10*365*day)},
		{"box.free_floor_bytes", 512 << 20, integer(func(c *Config, v int) { c.Box.FreeFloor = int64(v) }, 0, 1<<50)},
		{"box.sync", "3s", duration(func(c *Config, v time.Duration) { c.Box.Sync = v }, 500*time.Millisecond, 5*time.Second)},
		{"box.full", "15m", duration(func(c *Config, v time.Duration) { c.Box.Full = v }, time.Minute, 7*day)},
		{"archive.bytes", 512 << 20, integer(func(c *Config, v int) { c.Archive.Bytes = int64(v) }, 1<<20, 1<<40)},
		{"archive.age", "90d", duration(func(c *Config, v time.Duration) { c.Archive.Age = v }, time.Hour, 10*365*day)},
		{"output.dir", "", text(func(c *Config, v string) { c.Output.Dir = v })},
		{"log.level", "warn", text(func(c *Config, v string) { c.Log.Level = v }, "debug", "info", "warn", "error")},
	}
}

// Keys returns the name of every key.
func Keys() []string {
	var names []string
	for _, k := range keys() {
		names = append(names, k.name)
	}
	return names
}

// Sources is where Load looks.
type Sources struct {
	// File is read if it is not "". Default is read instead when File is ""
	// and it exists.
	File, Default string
	// Environ is the environment, as os.Environ gives it.
	Environ []string
	// Flags are the flags that set a key, by the key's name. One that was not
	// given on the command line sets nothing.
	Flags map[string]*pflag.Flag
}

// Read returns the file that Load reads, "" when it reads none.
func (s Sources) Read() string {
	if s.File != "" || s.Default == "" {
		return s.File
	}
	if _, err := os.Stat(s.Default); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return s.Default
}

// Load reads the configuration. The error names the file or variable, the key,
// what was wanted there and what was found.
func Load(s Sources) (Config, error) {
	var c Config
	v := viper.New()
	where, err := readFile(v, s)
	if err != nil {
		return c, err
	}
	env, err := environment(s.Environ)
	if err != nil {
		return c, err
	}
	origins := map[string]string{}
	for _, k := range keys() {
		v.SetDefault(k.name, k.value)
		origin := where
		if value, ok := env[k.name]; ok {
			v.Set(k.name, value)
			origin = "variable " + variable(k.name)
		}
		if flag := s.Flags[k.name]; flag != nil && flag.Changed {
			v.Set(k.name, flagValue(flag))
			origin = "flag --" + flag.Name
		}
		if err := k.set(&c, v.Get(k.name)); err != nil {
			return c, fmt.Errorf("%s: key %q: %w", origin, k.name, err)
		}
		origins[k.name] = origin
	}
	if err := checkMetrics(c.Daemon); err != nil {
		return c, fmt.Errorf("%s: key %q: %w", origins["daemon.metrics"], "daemon.metrics", err)
	}
	return c, nil
}

// checkMetrics refuses an address that other machines reach unless that is
// written out. A name is not looked up: where it leads is not for us to guess.
func checkMetrics(d Daemon) error {
	if d.Metrics == "" || filepath.IsAbs(d.Metrics) {
		return nil
	}
	host, number, err := net.SplitHostPort(d.Metrics)
	if err != nil || !port(number) {
		return want("127.0.0.1:PORT, the absolute path of a Unix socket, or nothing", d.Metrics)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && !d.MetricsRemote {
		return fmt.Errorf("%q can be reached from other machines: use 127.0.0.1:%s, or set daemon.metrics_remote: true", d.Metrics, number)
	}
	return nil
}

// given is a value that came as text, from the environment or a flag.
type given string

// flagValue keeps a repeatable flag's values apart.
func flagValue(f *pflag.Flag) any {
	if many, ok := f.Value.(pflag.SliceValue); ok {
		values := make([]any, 0)
		for _, v := range many.GetSlice() {
			values = append(values, v)
		}
		return values
	}
	return given(f.Value.String())
}

// readFile reads the file into v and returns how errors name it.
func readFile(v *viper.Viper, s Sources) (string, error) {
	path := s.Read()
	if path == "" {
		return "default", nil
	}
	b, err := readAll(path)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("read the configuration %s: %w (run as root, or name another file with --config; --config '' reads none)", path, err)
	}
	if err != nil {
		return "", fmt.Errorf("read the configuration %s: %w", path, err)
	}
	format := strings.TrimPrefix(filepath.Ext(path), ".")
	if format != "toml" {
		format = "yaml"
	}
	v.SetConfigType(format)
	if err := v.ReadConfig(strings.NewReader(string(b))); err != nil {
		return "", fmt.Errorf("read the configuration %s: %s", path, oneLine(err))
	}
	known := Keys()
	names := v.AllKeys()
	raw := map[string]any{} // viper forgets sections with nothing in them
	decoder, err := viper.NewCodecRegistry().Decoder(format)
	if err == nil {
		err = decoder.Decode(b, raw)
	}
	if err != nil {
		return "", fmt.Errorf("read the configuration %s: %s", path, oneLine(err))
	}
	for _, name := range sorted(hollow(names, "", raw)) {
		if slices.Contains(known, name) || section(known, name) && !slices.Contains(names, name) {
			continue
		}
		if section(known, name) {
			return "", fmt.Errorf("%s: key %q: want a section with keys below it, got %s", path, name, describe(v.Get(name)))
		}
		return "", fmt.Errorf("%s: %w", path, unknown(name, known))
	}
	return path, nil
}

// maxFile is far above any configuration.
const maxFile = 1 << 20

func readAll(path string) ([]byte, error) {
	f, err := OpenInput(path)
	if err == nil {
		defer f.Close()
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err == nil {
			if len(b) > maxFile {
				return nil, fmt.Errorf("it is larger than %d MB: it is no configuration", maxFile>>20)
			}
			return b, nil
		}
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err // the path is told with it anyway
	}
	return nil, err
}

// oneLine is what the parser says: viper puts a heading before it and the
// YAML parser each fault on a line of its own.
func oneLine(err error) string {
	text := strings.TrimPrefix(err.Error(), "While parsing config: ")
	text = strings.ReplaceAll(text, "unmarshal errors:\n", "")
	var faults []string
	for line := range strings.Lines(text) {
		faults = append(faults, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(faults, "; ")
}

// hollow adds the sections without any key to names.
func hollow(names []string, above string, in map[string]any) []string {
	for name, value := range in {
		name = above + strings.ToLower(name)
		if below, ok := value.(map[string]any); ok {
			if len(below) == 0 {
				names = append(names, name)
			}
			names = hollow(names, name+".", below)
		}
	}
	return names
}

func sorted(names []string) []string { slices.Sort(names); return names }

func section(known []string, name string) bool {
	return slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(k, name+".") })
}

// unknown names the nearest key, by the whole name, by its section, or by its
// last word.
func unknown(name string, known []string) error {
	close := nearest.To(name, known)
	if close == "" {
		sections := make(map[string]string)
		var names []string
		for _, k := range known {
			for i, r := range k {
				if r == '.' {
					sections[k[:i]] = k[:i]
				}
			}
			last := k[strings.LastIndexByte(k, '.')+1:]
			sections[last] = k
		}
		for n := range sections {
			names = append(names, n)
		}
		close = sections[nearest.To(name, sorted(names))]
	}
	if close == "" {
		return fmt.Errorf("unknown key %q: the keys are %s", name, strings.Join(known, ", "))
	}
	return fmt.Errorf("unknown key %q: did you mean %q?", name, close)
}

func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// environment returns the values of the FREEZEFRAME_* variables by key.
func environment(environ []string) (map[string]given, error) {
	byVariable := make(map[string]string)
	var names []string
	for _, k := range Keys() {
		byVariable[variable(k)] = k
		names = append(names, strings.TrimPrefix(variable(k), envPrefix))
	}
	out := make(map[string]given)
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		k, ok := byVariable[name]
		if !ok {
			// Without what all begin with, which makes any two look alike.
			if close := nearest.To(strings.TrimPrefix(name, envPrefix), names); close != "" {
				return nil, fmt.Errorf("unknown variable %s: did you mean %s?", name, envPrefix+close)
			}
			return nil, fmt.Errorf("unknown variable %s: the variables are %s", name, envPrefix+strings.Join(names, ", "+envPrefix))
		}
		out[k] = given(value)
	}
	return out, nil
}

// wantError is the error for a value of the wrong type or out of range.
type wantError struct {
	what string
	got  any
}

func (e *wantError) Error() string { return fmt.Sprintf("want %s, got %s", e.what, describe(e.got)) }

func want(what string, got any) error { return &wantError{what, got} }

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case given:
		return strconv.Quote(string(v))
	case string:
		return "the text " + strconv.Quote(v)
	case bool:
		return fmt.Sprintf("the truth value %v", v)
	case []any:
		return "a list"
	case map[string]any:
		return "a section"
	case int, int64, uint64, float64:
		return fmt.Sprintf("the number %v", v)
	}
	return fmt.Sprintf("%v", v)
}

func text(set func(*Config, string), oneOf ...string) func(*Config, any) error {
	return func(c *Config, raw any) error {
		var v string
		switch raw := raw.(type) {
		case string:
			v = raw
		case given:
			v = string(raw)
		default:
			return want("a text", raw)
		}
		if len(oneOf) > 0 && !slices.Contains(oneOf, v) {
			return want("one of "+strings.Join(oneOf, ", "), raw)
		}
		set(c, v)
		return nil
	}
}

// path reads the absolute path of a file or directory.
func path(set func(*Config, string)) func(*Config, any) error {
	var v string
	read := text(func(_ *Config, s string) { v = s })
	return func(c *Config, raw any) error {
		if err := read(c, raw); err != nil {
			return err
		}
		if err := absolute(v); err != nil {
			return err
		}
		set(c, filepath.Clean(v))
		return nil
	}
}

func boolean(set func(*Config, bool)) func(*Config, any) error {
	return func(c *Config, raw any) error {
		switch v := raw.(type) {
		case bool:
			set(c, v)
			return nil
		case given:
			if b, err := strconv.ParseBool(string(v)); err == nil {
				set(c, b)
				return nil
			}
		}
		return want("true or false", raw)
	}
}

func integer(set func(*Config, int), least, most int) func(*Config, any) error {
	return func(c *Config, raw any) error {
		what := fmt.Sprintf("a whole number from %d to %d", least, most)
		var n int64
		switch v := raw.(type) {
		case int:
			n = int64(v)
		case int64:
			n = v
		case given:
			var err error
			if n, err = strconv.ParseInt(string(v), 10, 64); err != nil {
				return want(what, raw)
			}
		default:
			return want(what, raw)
		}
		if n < int64(least) || n > int64(most) {
			return want(what, raw)
		}
		set(c, int(n))
		return nil
	}
}

// percent reads a number of percent as a share.
func percent(set func(*Config, float64), most float64) func(*Config, any) error {
	return func(c *Config, raw any) error {
		what := fmt.Sprintf("a number from 0 to %g", most)
		var n float64
		switch v := raw.(type) {
		case float64:
			n = v
		case int:
			n = float64(v)
		case int64:
			n = float64(v)
		case given:
			var err error
			if n, err = strconv.ParseFloat(string(v), 64); err != nil {
				return want(what, raw)
			}
		default:
			return want(what, raw)
		}
		if !(n >= 0 && n <= most) { // NaN is not
			return want(what, raw)
		}
		set(c, n/100)
		return nil
	}
}

func duration(set func(*Config, time.Duration), least, most time.Duration) func(*Config, any) error {
	return func(c *Config, raw any) error {
		what := fmt.Sprintf("a time from %s to %s, such as 500ms or 2s", least, most)
		if most >= day {
			what = fmt.Sprintf("a time from %s to %dd, such as 36h or 14d", least, most/day)
		}
		var v string
		switch raw := raw.(type) {
		case string:
			v = raw
		case given:
			v = string(raw)
		default:
			return want(what, raw)
		}
		d, err := parseDuration(v)
		if err != nil || d < least || d > most {
			return want(what, raw)
		}
		set(c, d)
		return nil
	}
}

const day = 24 * time.Hour

// parseDuration is time.ParseDuration that also takes whole days: 14d.
func parseDuration(s string) (time.Duration, error) {
	days, ok := strings.CutSuffix(s, "d")
	if !ok {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	return time.Duration(n) * day, err
}

// list reads a list of texts; from a variable it is separated by commas.
func list(set func(*Config, []string), check func(string) error) func(*Config, any) error {
	return func(c *Config, raw any) error {
		var values []string
		switch v := raw.(type) {
		case []any:
			for i, e := range v {
				s, ok := e.(string)
				if !ok {
					return fmt.Errorf("entry %d: %w", i+1, want("a text", e))
				}
				values = append(values, s)
			}
		case given:
			for _, s := range strings.Split(string(v), ",") {
				if s = strings.TrimSpace(s); s != "" {
					values = append(values, s)
				}
			}
		default:
			return want("a list of texts", raw)
		}
		for _, s := range values {
			if err := check(s); err != nil {
				return err
			}
		}
		set(c, values)
		return nil
	}
}

func bpfFamily(name string) error {
	if !slices.Contains(bpf.Names(), name) {
		return want("one of "+strings.Join(bpf.Names(), ", "), name)
	}
	return nil
}

func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return want("an absolute path", path)
	}
	return nil
}

func httpURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() != "" && !port(u.Port()) {
		// Never told again: credentials in it.
		if at := strings.LastIndexByte(s, '@'); at >= 0 {
			s = "***" + s[at:]
		}
		return want("a URL such as http://127.0.0.1:8080/health, its port from 1 to 65535", s)
	}
	return nil
}

func hostPort(s string) error {
	host, number, err := net.SplitHostPort(s)
	if err != nil || !port(number) || host == "" || strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '/' }) {
		return want("host:port, such as 127.0.0.1:6379, its port from 1 to 65535", s)
	}
	return nil
}

func port(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
